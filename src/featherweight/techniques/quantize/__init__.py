"""Techniques that quantize."""
