"""Hugging Face model classes for results that stock classes cannot express."""
