"""Measurements: each gives numbers, none judges."""
