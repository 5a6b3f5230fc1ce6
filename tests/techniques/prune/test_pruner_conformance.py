"""Every pruner passes the conformance suite, on a model with separate and on one with fused linears."""

from __future__ import annotations

from typing import Any

import pytest

from featherweight.core.technique import Kind, Technique, techniques
from featherweight.testing import check_technique

PRUNERS = [
    each for each in techniques().values() if each.kind == Kind.PRUNE and each.__module__.startswith("featherweight.")
]


CUTTING: dict[str, dict[str, Any]] = {"subnet": {"ffn": 64}}  # settings of those whose default changes nothing


def test_all_are_registered() -> None:
    assert {"depth", "equilibrium", "magnitude", "sparsegpt", "wanda", "width"} <= {each.name for each in PRUNERS}


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
@pytest.mark.parametrize("cls", PRUNERS, ids=lambda cls: cls.name)
def test_conformance(cls: type[Technique], model_type: str) -> None:
    check_technique(cls, cls(**CUTTING[cls.name]) if cls.name in CUTTING else None, model_type=model_type)
