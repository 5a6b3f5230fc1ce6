"""Rounds tiny models for the export tests, without a quantizer: exports must not depend on one."""

from __future__ import annotations

from collections.abc import Mapping

from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.quantizer import fitting


def rounded(model: Model, formats: Mapping[str, str]) -> Model:
    """The model with some tensors in other formats; too short rows fall back as llama.cpp's do."""
    return model.with_changes({
        name: get(fitting(kind, model.entries[name].shape, name)).fit(model.tensor(name))
        for name, kind in formats.items()
    })  # fmt: skip


def all_in(model: Model, kind: str) -> Model:
    """The model with every matrix in one format."""
    return rounded(model, dict.fromkeys(model.architecture.quantizable(), kind))


def linears_in(model: Model, kind: str) -> Model:
    """The model with the linears of all blocks in one format."""
    return rounded(model, dict.fromkeys(model.architecture.linears(), kind))
