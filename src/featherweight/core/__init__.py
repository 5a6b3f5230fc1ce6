"""The nouns: budget, checkpoint, model, formats, technique, recipe, receipt. Imports nothing else of the package."""
