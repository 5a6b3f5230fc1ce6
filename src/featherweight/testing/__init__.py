"""For authors of techniques and detectors: tiny random models of every architecture, and the conformance suites."""

from featherweight.testing.conformance import check_technique
from featherweight.testing.detectors import check_detector
from featherweight.testing.tiny import tiny_model, tiny_run

__all__ = ["check_detector", "check_technique", "tiny_model", "tiny_run"]
