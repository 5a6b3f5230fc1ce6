"""What a model will take before it exists: exact bytes, and decode time from a few measured files.

Decode time is modelled as an overhead plus seconds a byte for each format, fitted to measured files by non-negative
least squares: on most machines decoding reads every weight once, but formats unpack at different speeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.formats import get
from featherweight.core.lazy import np
from featherweight.core.model import Model


def bytes_by_format(shapes: Mapping[str, tuple[int, ...]], formats: Mapping[str, str]) -> dict[str, int]:
    """Stored bytes in each format, for tensors of these shapes in these formats."""
    totals: dict[str, int] = {}
    for name, kind in formats.items():
        totals[kind] = totals.get(kind, 0) + get(kind).tensor_bytes(shapes[name])
    return totals


def stored_formats(model: Model) -> dict[str, int]:
    """Stored bytes of a model in each of its formats."""
    totals: dict[str, int] = {}
    for entry in model.entries.values():
        totals[entry.format] = totals.get(entry.format, 0) + entry.nbytes
    return totals


@dataclass(frozen=True)
class LatencyModel:
    """Expected seconds a decoded token.

    Attributes:
        overhead: seconds that do not depend on the weights' size.
        rates: seconds a byte, by format; formats never measured take the slowest rate known.
        error: largest relative error on the files it was fitted to.
    """

    overhead: float
    rates: Mapping[str, float]
    error: float

    def seconds(self, totals: Mapping[str, int]) -> float:
        """For a model with these bytes in each format."""
        slowest = max(self.rates.values(), default=0.0)
        return self.overhead + sum(self.rates.get(kind, slowest) * size for kind, size in totals.items())


def fit_latency(measured: Sequence[tuple[Mapping[str, int], float]]) -> LatencyModel:
    """A model of decode time from files with known bytes in each format and their measured seconds a token."""
    from scipy.optimize import nnls

    kinds = sorted({kind for totals, _ in measured for kind in totals})
    design = np.array([[1.0, *(totals.get(kind, 0) / 1e9 for kind in kinds)] for totals, _ in measured])
    seconds = np.array([each for _, each in measured])
    solution, _ = nnls(design / seconds[:, None], np.ones(len(seconds)))
    error = float(np.abs(design @ solution / seconds - 1).max())
    rates = {kind: float(rate) / 1e9 for kind, rate in zip(kinds, solution[1:], strict=True)}
    return LatencyModel(float(solution[0]), rates, error)
