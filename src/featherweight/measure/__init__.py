"""Measurements: quality, sensitivity, latency, memory. Each gives numbers, none judges."""
