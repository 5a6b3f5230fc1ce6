"""Techniques: model in, model out; one a file. They are found by walking this package."""
