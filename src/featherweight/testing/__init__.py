"""For authors of techniques: tiny random models of every supported architecture, and the conformance suite."""

from featherweight.testing.conformance import check_technique
from featherweight.testing.tiny import tiny_model, tiny_run

__all__ = ["check_technique", "tiny_model", "tiny_run"]
