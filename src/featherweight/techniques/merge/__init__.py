"""Techniques that prune."""
