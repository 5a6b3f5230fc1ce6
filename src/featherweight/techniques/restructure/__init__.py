"""Techniques that give a model another structure."""
