"""Techniques that train: adapters, healing, patches."""
