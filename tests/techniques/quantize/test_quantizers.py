"""Quantizers: neutral settings, baselines they must equal, what they need, on every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.architecture import supported
from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError, FormatError, RecipeError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.stream import head_weight, stream
from featherweight.core.technique import build
from featherweight.measure.quality import compare, summarize
from featherweight.testing import check_technique, tiny_model, tiny_run
from featherweight.testing.tiny import tiny_tokens

SETTINGS = {
    "rtn": {"format": "Q4_0", "embedding": "Q8_0"},
    "imatrix": {"format": "Q4_K", "embedding": "Q5_0"},
    "gptq": {"format": "Q4_1", "embedding": "Q5_1"},
    "awq": {"format": "int4-g64", "steps": 4},
    "mixed-precision": {"memory": 0.35, "rows": 4},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("model_type", supported())
def test_conformance(name: str, model_type: str) -> None:
    setting = build(name, SETTINGS[name])
    check_technique(type(setting), setting, model_type)


@pytest.fixture
def model(tiny: Path) -> Model:
    return open_folder(tiny)


@pytest.fixture
def run(tiny: Path) -> Run:
    return tiny_run(tiny)


def same(one: Model, other: Model) -> bool:
    return one.fingerprint == other.fingerprint


def divergence(model: Model, child: Model, tokens: TokenSet) -> float:
    return summarize(compare(model, child, tokens, Run())).kl


def test_awq_without_steps_is_imatrix(model: Model, run: Run) -> None:
    plain = build("imatrix", {"format": "Q4_0"}).apply(model, run)
    assert same(build("awq", {"format": "Q4_0", "steps": 0}).apply(model, run), plain)
    assert not same(build("awq", {"format": "Q4_0", "steps": 4}).apply(model, run), plain)


def test_awq_scales_keep_the_function(model: Model, run: Run, tiny: Path) -> None:
    scaled = build("awq", {"format": "Q4_0", "round": False}).apply(model, run)
    ids = tiny_tokens(tiny).ids
    assert not same(scaled, model)
    assert torch.allclose(scaled.module()(ids).logits, model.module()(ids).logits, atol=2e-5)


def test_ranking_on_an_easy_case(tiny: Path, model: Model, run: Run) -> None:
    """Error feedback beats importance, importance beats nothing, on text from the same source."""
    tokens = tiny_tokens(tiny, skip=60)
    results = {
        name: divergence(model, build(name, {"format": "Q4_0"}).apply(model, run), tokens)
        for name in ("rtn", "imatrix", "gptq")
    }
    assert results["gptq"] < results["imatrix"] < results["rtn"]


@pytest.mark.parametrize("rows", [2, 100])
def test_gptq_by_block_is_gptq_on_the_unrounded_block(model: Model, run: Run, rows: int, tiny: Path) -> None:
    grouped = build("gptq", {"format": "Q4_0"}).apply(model, run)
    by_block = build("gptq", {"format": "Q4_0", "sequential": "block", "rows": rows}).apply(model, run)
    first = "model.layers.0.self_attn.q_proj.weight"
    differing = (grouped.tensor(first) != by_block.tensor(first)).float().mean()
    assert float(differing) < 0.01  # the first linears see the same input either way
    tokens = tiny_tokens(tiny, skip=60)
    assert divergence(model, by_block, tokens) == pytest.approx(divergence(model, grouped, tokens), rel=0.5)


def test_kquants_fall_back_where_rows_are_short(run: Run, model: Model) -> None:
    child = build("rtn", {"format": "Q6_K"}).apply(model, run)
    assert child.entries["model.layers.0.mlp.down_proj.weight"].format == "Q6_K"
    assert child.entries["model.layers.0.self_attn.q_proj.weight"].format == "Q8_0"
    with pytest.raises(FormatError, match="row length must be a multiple of 128"):
        build("rtn", {"format": "int4-g128"}).apply(model, run)


def test_overrides_win(model: Model, run: Run) -> None:
    fields = {"format": "Q4_0", "overrides": {"*.down_proj.weight": "Q8_0", "*.0.self_attn.*": "keep"}}
    child = build("rtn", fields).apply(model, run)
    assert child.entries["model.layers.1.mlp.down_proj.weight"].format == "Q8_0"
    assert child.entries["model.layers.0.self_attn.q_proj.weight"].format == "F32"
    assert child.entries["model.layers.1.self_attn.q_proj.weight"].format == "Q4_0"
    assert child.entries["model.embed_tokens.weight"].format == "F32"


def test_planned_formats_need_a_plan(model: Model, run: Run) -> None:
    with pytest.raises(RecipeError, match="put mixed-precision before it"):
        build("gptq", {}).apply(model, run)


def test_mixed_precision_plans_within_its_bytes(model: Model, run: Run) -> None:
    for memory in (0.35, 0.5, 0.75):
        planned = build("mixed-precision", {"memory": memory, "rows": 4}).apply(model, run)
        assert same(planned, model)
        child = build("gptq", {}).apply(planned, run)
        assert child.nbytes <= memory * model.bf16_bytes()
        assert {child.entries[name].format for name in planned.planned} == set(planned.planned.values())


def test_more_bytes_less_damage(tiny: Path, model: Model, run: Run) -> None:
    tokens = tiny_tokens(tiny, skip=60)
    damage = []
    for memory in (0.32, 0.42, 0.6):
        planned = build("mixed-precision", {"memory": memory, "rows": 4}).apply(model, run)
        damage.append(divergence(model, build("gptq", {}).apply(planned, run), tokens))
    assert damage[0] > damage[1] > damage[2]


def test_too_few_bytes_are_refused(model: Model, run: Run) -> None:
    from featherweight.core.errors import BudgetError

    with pytest.raises(BudgetError, match="cannot hold the model"):
        build("mixed-precision", {"memory": 0.05, "rows": 4}).apply(model, run)


def test_compressed_tensors_keep_the_embedding_wide(model: Model, run: Run) -> None:
    fields = {"memory": 0.6, "runtime": "compressed-tensors", "rows": 4}
    planned = build("mixed-precision", fields).apply(model, run).planned
    assert planned["model.embed_tokens.weight"] == planned["lm_head.weight"] == "BF16"
    assert any(kind.startswith("int") for kind in planned.values())


def test_calibration_is_asked_for(model: Model) -> None:
    for name in ("gptq", "imatrix", "awq"):
        with pytest.raises(DataError, match="needs calibration text"):
            build(name, {"format": "Q4_0"}).apply(model, Run())


def test_later_blocks_see_rounded_ones(models_folder: Path) -> None:
    """With group order, the second block is rounded for the outputs of the rounded first one."""
    path = tiny_model(models_folder)
    model, run = open_folder(path), tiny_run(path)
    child = build("gptq", {"format": "Q4_0"}).apply(model, run)
    first_only = {name: entry for name, entry in child.entries.items() if name.startswith("model.layers.0.")}
    half = model.with_changes(first_only)
    continued = build("gptq", {"format": "Q4_0", "overrides": {"*.layers.0.*": "keep"}}).apply(half, run)
    name = "model.layers.1.self_attn.q_proj.weight"
    assert float((continued.tensor(name) != child.tensor(name)).float().mean()) < 0.01


def test_head_follows_the_final_states(tiny: Path, model: Model, run: Run) -> None:
    tokens = tiny_tokens(tiny, skip=60)
    nearest = build("rtn", {"format": "keep", "embedding": "keep", "overrides": {"lm_head.weight": "Q4_0"}})
    feedback = build("gptq", {"format": "keep", "overrides": {"lm_head.weight": "Q4_0"}})
    hidden = stream(model, tokens.ids)
    expected = hidden @ head_weight(model).T

    def error(child: Model) -> float:
        return float((hidden @ head_weight(child).T - expected).square().mean())

    assert error(feedback.apply(model, run)) < error(nearest.apply(model, run))
