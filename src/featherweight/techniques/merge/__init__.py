"""Techniques that merge."""
