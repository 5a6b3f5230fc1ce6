"""The pruners on the embedded real model: second-order updates beat input norms, which beat sizes alone.

SmolLM2 cut to its first six blocks predicts nothing (its loss is above a uniform guess's), so loss says nothing there:
what is compared on it is the error of the final hidden states. The loss is compared on the whole model, slowly.
"""

from __future__ import annotations

import pytest
import torch

from featherweight.core.data import TokenSet, default_documents, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.stream import head_weight, stream
from featherweight.core.technique import Technique
from featherweight.techniques.prune.depth import Depth
from featherweight.techniques.prune.magnitude import Magnitude
from featherweight.techniques.prune.sparsegpt import SparseGpt
from featherweight.techniques.prune.wanda import Wanda
from featherweight.techniques.prune.width import Width

pytestmark = pytest.mark.real


def rows(model: Model, split: str, count: int) -> TokenSet:
    return tokenize(split_documents(default_documents())[split], model.tokenizer, count, 128)


def errors(model: Model, techniques: list[Technique], calibration: TokenSet, ids: torch.Tensor) -> list[float]:
    """Mean squared error of the final hidden states, relative to their size."""
    truth = stream(model, ids)
    changed = [stream(each.apply(model, Run(calibration=calibration)), ids) for each in techniques]
    return [float((states - truth).square().mean() / truth.square().mean()) for states in changed]


@pytest.fixture(scope="module")
def six_blocks(smollm: Model) -> Model:
    return slice_model(smollm, Keep(blocks=range(6)))


def test_half_the_weights_of_six_blocks(six_blocks: Model) -> None:
    calibration, ids = rows(six_blocks, "calibration", 20), rows(six_blocks, "held-out", 4).ids
    sparsegpt, wanda, magnitude = errors(six_blocks, [SparseGpt(), Wanda(), Magnitude()], calibration, ids)
    assert sparsegpt < wanda < magnitude


def test_a_quarter_of_the_channels_of_six_blocks(six_blocks: Model) -> None:
    calibration, ids = rows(six_blocks, "calibration", 20), rows(six_blocks, "held-out", 4).ids
    updated, plain, drawn = errors(
        six_blocks, [Width(), Width(compensate=False), Width(score="random", compensate=False)], calibration, ids
    )
    assert updated < plain < drawn


def test_shapes_of_a_narrower_and_shorter_model(smollm: Model) -> None:
    small = slice_model(smollm, Keep(range(2), {0: range(768), 1: range(768, 1536)}, {0: [0, 1], 1: [1, 2]}))
    a = small.architecture
    assert (a.blocks, a.size("ffn"), a.kv_heads, a.size("query")) == (2, 768, 2, 384)
    assert small.parameters == 49152 * 576 + 2 * (576 * (2 * 384 + 2 * 128 + 3 * 768) + 2 * 576) + 576
    assert stream(small, torch.arange(8)[None]).isfinite().all()


@pytest.mark.slow
def test_loss_at_half_sparsity_and_of_shorter_models(smollm: Model) -> None:
    calibration, ids = rows(smollm, "calibration", 20), rows(smollm, "held-out", 4).ids
    head = head_weight(smollm)

    def loss(technique: Technique) -> float:
        states = stream(technique.apply(smollm, Run(calibration=calibration)), ids)
        return float(torch.nn.functional.cross_entropy((states[:, :-1] @ head.T).flatten(0, 1), ids[:, 1:].flatten()))

    assert loss(SparseGpt()) < loss(Wanda()) < loss(Magnitude())
    assert loss(Depth(drop=3)) < loss(Depth(drop=3, score="reversed"))
