"""Weights kept at 16 bits: what equals plain rounding, what is kept, the true bits a weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.errors import DataError
from featherweight.core.formats import get
from featherweight.core.formats.composed import Kept
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.techniques.quantize.critical_weights import CriticalWeights
from featherweight.testing import check_technique, tiny_run

FIELDS: dict[str, Any] = {"format": "Q4_0", "count": 4, "answer_tokens": 4}


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_conformance(model_type: str) -> None:
    check_technique(CriticalWeights, build("critical-weights", {**FIELDS, "embedding": "Q8_0"}), model_type)


def test_keeping_none_is_rounding_to_nearest(tiny: Path) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    nearest = build("rtn", {"format": "Q4_0"}).apply(model, run)
    assert build("critical-weights", {**FIELDS, "share": 0}).apply(model, run).fingerprint == nearest.fingerprint


@pytest.mark.parametrize("mask", ["snip", "random"])
@pytest.mark.parametrize("share", [0.05, 0.6, 0.1234567])
def test_the_share_is_exact_and_the_rest_is_rounded(tiny: Path, mask: str, share: float) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    nearest = build("rtn", {"format": "Q4_0"}).apply(model, run)
    after = build("critical-weights", {**FIELDS, "share": share, "mask": mask}).apply(model, run)
    for name in model.architecture.linears():
        kind = get(after.entries[name].format)
        assert isinstance(kind, Kept)
        kept = kind.kept_of(after.stored(name))
        assert abs(int(kept.sum()) - share * kept.numel()) <= 1
        assert torch.equal(after.tensor(name)[~kept], nearest.tensor(name)[~kept])
        assert torch.equal(after.tensor(name)[kept], model.tensor(name)[kept].bfloat16().float())
    assert run.notes["bits a weight"] == pytest.approx(4.5 + 1 + 16 * share, abs=0.01)


def test_scores_choose_other_weights_than_chance(tiny: Path) -> None:
    model = open_folder(tiny)
    chosen, control = (
        build("critical-weights", {**FIELDS, "mask": mask}).apply(model, tiny_run(tiny)) for mask in ("snip", "random")
    )
    name = model.architecture.linears()[0]
    kind = get(chosen.entries[name].format)
    assert isinstance(kind, Kept)
    marks = [kind.kept_of(each.stored(name)) for each in (chosen, control)]
    weight = model.tensor(name).abs()
    assert weight[marks[0]].mean() > 1.5 * weight[marks[1]].mean()


def test_prompts_are_asked_for(tiny: Path) -> None:
    with pytest.raises(DataError, match="needs calibration text"):
        build("critical-weights", FIELDS).apply(open_folder(tiny), Run())


def test_a_rounded_model_keeps_its_codes_and_gets_weights_of_its_parent(tiny: Path) -> None:
    parent, run = open_folder(tiny), tiny_run(tiny)
    run.parent = parent
    rounded = build("gptq", {"format": "int3-g32"}).apply(parent, run)
    after = build("critical-weights", {**FIELDS, "format": "keep", "share": 0.1}).apply(rounded, run)
    for name in parent.architecture.linears():
        kind = get(after.entries[name].format)
        assert kind.name == "int3-g32+0.1xBF16"
        assert isinstance(kind, Kept)
        kept = kind.kept_of(after.stored(name))
        assert torch.equal(after.tensor(name)[~kept], rounded.tensor(name)[~kept])
        assert torch.equal(after.tensor(name)[kept], parent.tensor(name)[kept].bfloat16().float())
    assert CriticalWeights.neutral().apply(rounded, run).fingerprint == rounded.fingerprint
    with pytest.raises(DataError, match="needs a parent with the same matrices"):
        build("critical-weights", {**FIELDS, "format": "keep"}).apply(rounded, tiny_run(tiny))


def test_without_linears_to_round_nothing_is_scored(tiny: Path) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    after = build("critical-weights", {"format": "keep", "embedding": "keep", "overrides": {"lm_head.weight": "Q8_0"}})
    assert after.apply(model, run).entries["lm_head.weight"].format == "Q8_0"
