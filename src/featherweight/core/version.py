"""The version of this package, as receipts and packages name it."""

__version__ = "0.1.0"
