"""Verification: compares measurements of two models and decides."""
