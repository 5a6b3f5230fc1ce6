"""Width pruning: scores, the least-squares update, counts, and what the result computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from featherweight.core.errors import FormatError, RecipeError
from featherweight.core.formats import get
from featherweight.core.inputs import InputMoments
from featherweight.core.model import Model
from featherweight.core.moments import contributions
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.source import open_folder
from featherweight.core.stream import stream
from featherweight.core.technique import build
from featherweight.techniques.prune.width import Width, compensated
from featherweight.testing.tiny import tiny_model, tiny_run, tiny_tokens

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}


def logits(model: Model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.module()(ids, use_cache=False).logits


def moments(model: Model, ids: torch.Tensor, linear: str) -> list[torch.Tensor]:
    """E[x x^T] of a linear's input in every block."""
    found: list[torch.Tensor] = []
    reads = [read for read in model.architecture.reads if linear in read.linears]
    stream(model, ids, InputMoments(reads, lambda index, block, read, moment: found.append(moment)))
    return found


@pytest.mark.parametrize("width", [1, 4])
def test_scores_are_mean_squared_contributions(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(5, 12, generator=generator), torch.randn(50, 12, generator=generator)
    scores = contributions(weight, inputs.T @ inputs / 50, width)
    for part in range(12 // width):
        columns = slice(part * width, (part + 1) * width)
        outputs = inputs[:, columns] @ weight[:, columns].T
        torch.testing.assert_close(scores[part], outputs.square().sum(1).mean())
    if width == 1:
        torch.testing.assert_close(scores, inputs.square().mean(0) * weight.square().sum(0))


def test_the_update_is_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, inputs = torch.randn(5, 12, generator=generator), torch.randn(80, 12, generator=generator)
    inputs[:, 8:] += inputs[:, :4]
    kept = torch.arange(12) < 8
    update = compensated(weight, inputs.T @ inputs / 80, kept, ridge=0)
    expected = torch.linalg.lstsq(inputs[:, kept].double(), inputs.double() @ weight.double().T).solution.T
    torch.testing.assert_close(update, expected.float())
    heavy = compensated(weight, inputs.T @ inputs / 80, kept, ridge=1e9)
    torch.testing.assert_close(heavy, weight[:, kept])


def test_the_update_does_not_depend_on_the_scale_of_channels() -> None:
    generator = torch.Generator().manual_seed(2)
    weight, inputs = torch.randn(5, 12, generator=generator), torch.randn(80, 12, generator=generator).cumsum(1)
    scale, kept = torch.rand(12, generator=generator) + 0.1, torch.arange(12) % 3 > 0
    plain = compensated(weight, inputs.T @ inputs, kept, 0.5)
    scaled = compensated(weight / scale, (inputs * scale).T @ (inputs * scale), kept, 0.5)
    torch.testing.assert_close(scaled * scale[kept], plain)


def test_inputs_that_are_zero_or_equal_are_no_error() -> None:
    weight = torch.ones(2, 4)
    inputs = torch.tensor([[1.0, 1.0, 0.0, 1.0], [2.0, 2.0, 0.0, 2.0]])
    update = compensated(weight, inputs.T @ inputs / 2, torch.tensor([True, True, True, False]), ridge=0)
    torch.testing.assert_close(inputs[:, :3] @ update.T, inputs @ weight.T, rtol=1e-4, atol=1e-4)


def with_redundant_channels(model: Model) -> Model:
    """The last 64 of 256 channels of every block become combinations of the first 192, and small."""
    changed = {}
    mix = 0.01 * torch.randn(64, 192, generator=torch.Generator().manual_seed(3))
    for block in range(model.architecture.blocks):
        gate, up = (model.architecture.linear(block, f"mlp.{name}_proj") for name in ("gate", "up"))
        gates, ups = model.tensor(gate), model.tensor(up)
        gates[:] = gates[0]  # one gate for all, so that combinations of up rows are combinations of channels
        ups[192:] = mix @ ups[:192]
        changed.update({gate: gates, up: ups})
    return model.with_changes(changed)


def test_channels_that_others_can_replace_are_replaced(tiny: Path) -> None:
    model, ids = with_redundant_channels(open_folder(tiny)), tiny_tokens(tiny, skip=20).ids
    run, before = tiny_run(tiny), logits(model, ids)
    pruned = Width(ffn=0.75, damping=1e-9).apply(model, run)
    assert pruned.architecture.size("ffn") == 192
    for block in range(2):
        up = model.architecture.linear(block, "mlp.up_proj")
        assert torch.equal(pruned.tensor(up), model.tensor(up)[:192])
    assert (logits(pruned, ids) - before).abs().max() < 1e-4 * before.abs().max()
    without = Width(ffn=0.75, compensate=False).apply(model, run)
    assert (logits(without, ids) - before).abs().max() > 1e-2 * before.abs().max()


def test_without_the_update_it_is_slicing_and_later_blocks_see_earlier_ones_pruned(any_architecture: Path) -> None:
    model, run = open_folder(any_architecture), tiny_run(any_architecture)
    ids, down = run.tokens("test").ids, model.architecture.linear(0, "mlp.down_proj")
    pruned = Width(ffn=0.5, compensate=False).apply(model, run)
    kept, changed = {}, model
    for block in range(2):
        name = model.architecture.linear(block, "mlp.down_proj")
        scores = contributions(model.tensor(name), moments(changed, ids, "mlp.down_proj")[block], 1)
        kept[block] = sorted(scores.topk(128).indices.tolist())
        zeroed = model.tensor(down)
        zeroed[:, [channel for channel in range(256) if channel not in kept[0]]] = 0
        changed = model.with_changes({down: zeroed})
    assert pruned.fingerprint == slice_model(model, Keep(ffn=kept)).fingerprint


def test_groups_go_with_their_query_heads(any_architecture: Path, tmp_path: Path) -> None:
    model, run = open_folder(any_architecture), tiny_run(any_architecture)
    pruned = Width(ffn=1.0, groups=1).apply(model, run)
    assert (pruned.config["num_key_value_heads"], pruned.config["num_attention_heads"]) == (1, 2)
    pruned.save(tmp_path / "saved")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    ids = run.tokens("test").ids
    with torch.inference_mode():
        assert torch.equal(stock(ids, use_cache=False).logits, logits(pruned, ids))


def test_the_update_lowers_the_error_of_the_output(tiny: Path) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    ids = run.tokens("test").ids
    errors = []
    for compensate in (True, False):
        pruned = Width(ffn=0.5, groups=1, compensate=compensate, damping=1e-3).apply(model, run)
        errors.append(float((stream(pruned, ids) - stream(model, ids)).square().mean()))
    assert errors[0] < errors[1]


@pytest.mark.parametrize("score", ["random", "reversed"])
def test_controls_keep_as_many_others(tiny: Path, score: Any) -> None:
    model = open_folder(tiny)
    control = Width(score=score, compensate=False).apply(model, tiny_run(tiny))
    chosen = Width(compensate=False).apply(model, tiny_run(tiny))
    assert control.architecture.sizes == chosen.architecture.sizes
    assert control.fingerprint != chosen.fingerprint


@pytest.mark.parametrize(
    ("fields", "ffn", "groups"),
    [
        ({"ffn": 0.75}, 192, 4),
        ({"ffn": 0.7}, 192, 4),
        ({"ffn": 0.7, "multiple": 1}, 179, 4),
        ({"ffn": 0.6, "multiple": 256}, 256, 4),
        ({"ffn": 0.001}, 32, 4),
        ({"ffn": 1.0, "groups": 2}, 256, 2),
        ({"ffn": 1.0, "groups": 0.5}, 256, 2),
        ({"ffn": 1.0, "groups": 0.7}, 256, 4),  # three would leave six heads, which 64 hidden channels do not divide
        ({"ffn": 1.0, "groups": 0.01}, 256, 1),
        ({"ffn": 1.0, "groups": 1}, 256, 1),
        ({"ffn": 1.0, "groups": 4}, 256, 4),
    ],
)
def test_counts(models_folder: Path, fields: dict[str, Any], ffn: int, groups: int) -> None:
    folder = tiny_model(models_folder, **HEADS)
    pruned = Width(**fields).apply(open_folder(folder), tiny_run(folder, rows=2))
    assert (pruned.architecture.size("ffn"), pruned.architecture.kv_heads) == (ffn, groups)


def test_a_count_that_cannot_be_is_refused(models_folder: Path) -> None:
    folder = tiny_model(models_folder, **HEADS)
    with pytest.raises(RecipeError, match=r"can keep \[1, 2, 4\]"):
        Width(groups=3).apply(open_folder(folder), tiny_run(folder))
    with pytest.raises(RecipeError, match=r"share up to 1\.0"):
        build("width", {"groups": 1.5})


@pytest.mark.parametrize("name", ["Q4_0", "int4-g64"])
def test_rounded_models_stay_rounded(tiny: Path, name: str) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    model = model.with_changes({each: get(name).fit(model.tensor(each)) for each in model.architecture.linears()})
    pruned = Width(ffn=0.5, groups=1, multiple=64).apply(model, run)
    assert {pruned.entries[each].format for each in pruned.architecture.linears()} == {name}
    assert logits(pruned, run.tokens("test").ids).isfinite().all()


def test_rows_that_no_longer_fit_are_refused_before_the_work(tiny: Path) -> None:
    model = open_folder(tiny)
    down = model.architecture.linear(1, "mlp.down_proj")
    with pytest.raises(FormatError, match="multiple of 256"):
        Width(ffn=0.5).apply(model.with_changes({down: get("Q4_K").fit(model.tensor(down))}), Run())


def test_rows_at_a_time_is_close(tiny: Path) -> None:
    model = open_folder(tiny)
    split = Width(ffn=0.5, rows=3).apply(model, tiny_run(tiny))
    assert split.architecture.size("ffn") == 128
