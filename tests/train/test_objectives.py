"""Objectives without labels: the exact facts, and the special cases that make one another."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import RecipeError, TrainingError
from featherweight.models.backbone import IDENTITY, Backbone
from featherweight.models.sequence_network import SequenceNetwork, SignalEncoder, TokenEncoder
from featherweight.train.objectives.base import normalised
from featherweight.train.objectives.contrast import ContrastivePrediction, candidates, info_nce
from featherweight.train.objectives.following import Following
from featherweight.train.objectives.masked import DataToVector, JointEmbedding, MaskedTask
from featherweight.train.objectives.masks import block_masks, span_masks
from featherweight.train.objectives.registry import OBJECTIVES, build_objective, usual_objectives

WIDTH, LENGTH = 8, 24


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(name: str = "convolution", causal: bool = True, seed: int = 0) -> SequenceNetwork:
    torch.manual_seed(seed)
    return SequenceNetwork(SignalEncoder(1, WIDTH, (3,), (1,)), Backbone(name, WIDTH, 2, 4, causal))


@given(st.integers(1, 9), st.integers(2, 40), st.integers(1, 20))
def test_candidates_that_are_all_alike_cost_exactly_the_logarithm_of_their_number(
    rows: int, length: int, negatives: int
) -> None:
    offset = max(1, length // 3)
    states = torch.randn(1, 1, WIDTH).expand(rows, length, WIDTH)
    loss = info_nce(torch.randn(rows, length, WIDTH), states, offset, negatives, 0.7, seeded())
    assert float(loss) / (length - offset) == pytest.approx(math.log(1 + negatives), abs=2e-6)


@given(st.integers(1, 6), st.integers(2, 50), st.integers(0, 60), st.integers(1, 30), st.integers(0, 9))
def test_the_right_one_is_never_among_the_others(
    rows: int, length: int, offset: int, negatives: int, seed: int
) -> None:
    offset = min(offset, length - 1)
    places = candidates(rows, length, offset, negatives, seeded(seed))
    assert places.shape == (rows, length - offset, 1 + negatives)
    assert torch.equal(places[..., 0], torch.arange(offset, length).expand(rows, -1))
    assert not bool((places[..., 1:] == places[..., :1]).any())
    assert int(places.min()) >= 0
    assert int(places.max()) < length


def test_others_are_drawn_alike_from_all_positions() -> None:
    places = candidates(400, 6, 2, 25, seeded())[:, 1, 1:]  # the right one is 3
    counts = torch.bincount(places.flatten(), minlength=6) / places.numel()
    assert counts[3] == 0
    torch.testing.assert_close(counts[[0, 1, 2, 4, 5]], torch.full((5,), 0.2), atol=0.02, rtol=0)


def test_scores_of_all_pairs_are_those_of_the_candidates() -> None:
    predicted, states = torch.randn(3, LENGTH, WIDTH), torch.randn(3, LENGTH, WIDTH)
    places = candidates(3, LENGTH, 4, 5, seeded(7))
    total = 0.0
    for row in range(3):
        for position in range(LENGTH - 4):
            scores = states[row, places[row, position]] @ predicted[row, position] / 0.5
            total += float(torch.logsumexp(scores, 0) - scores[0])
    assert float(info_nce(predicted, states, 4, 5, 0.5, seeded(7))) == pytest.approx(total / 3, rel=1e-5)


def test_with_no_backbone_it_is_plain_info_nce_on_the_encoder() -> None:
    plain = network(IDENTITY)
    task = ContrastivePrediction(offset=4, negatives=6).task(plain, seeded(1))
    inputs = torch.randn(5, LENGTH, 1)
    encoded = plain.encoder(inputs)
    expected = info_nce(encoded @ task.predict.weight.T, encoded, 4, 6, 1.0, seeded(2))
    assert torch.equal(task.loss(inputs, seeded(2)), expected)


def test_an_offset_that_leaves_nothing() -> None:
    with pytest.raises(TrainingError, match="leaves nothing to predict in sequences of 8"):
        info_nce(torch.randn(1, 8, 4), torch.randn(1, 8, 4), 8, 3, 1.0, seeded())


@given(st.integers(1, 6), st.integers(4, 80), st.integers(0, 30))
def test_blocks_and_context_have_nothing_in_common(rows: int, length: int, seed: int) -> None:
    targets, seen = block_masks(rows, length, 4, (0.15, 0.2), (0.85, 1.0), 0.2, seeded(seed))
    assert not bool((targets & seen).any())
    assert bool(targets.any(1).all())
    assert bool((seen.sum(1) >= int(0.2 * length)).all())


@given(st.integers(1, 6), st.integers(1, 60), st.integers(1, 12), st.integers(0, 30))
def test_spans_are_as_long_as_they_are_asked_to_be(rows: int, length: int, span: int, seed: int) -> None:
    hidden = span_masks(rows, length, 0.05, min(span, length), seeded(seed))
    assert bool(hidden.any(1).all())
    padded = torch.nn.functional.pad(hidden.int(), (1, 1))
    starts, ends = (padded.diff() == 1).nonzero(), (padded.diff() == -1).nonzero()
    for (_, start), (_, end) in zip(starts.tolist(), ends.tolist(), strict=True):
        assert end - start >= min(span, length) or end == length


def test_a_teacher_follows_and_learns_nothing() -> None:
    leader = torch.nn.Linear(3, 3)
    teacher = Following(leader, (0.5, 1.0))
    before = teacher.copy.weight.clone()
    with torch.no_grad():
        leader.weight.add_(1)
    teacher.follow(leader, 0.0)
    torch.testing.assert_close(teacher.copy.weight, before + 0.5)
    kept = teacher.copy.weight.clone()
    teacher.follow(leader, 1.0)
    assert torch.equal(teacher.copy.weight, kept)
    assert not any(each.requires_grad for each in teacher.parameters())
    assert not teacher.train().copy.training


def test_data2vec_with_one_layer_and_blocks_is_jepa_without_a_predictor() -> None:
    inputs = torch.randn(4, LENGTH, 1)
    student = network(causal=False)
    one = DataToVector(layers=1, masks="blocks").task(student, seeded(3))
    other = JointEmbedding(predicts="identity").task(student, seeded(3))
    losses = [task.loss(inputs, seeded(4)) for task in (one, other)]
    torch.testing.assert_close(losses[0], losses[1] * WIDTH**0.5)


def test_targets_are_what_the_teacher_makes_of_everything() -> None:
    task = DataToVector(layers=2).task(network(causal=False), seeded())
    assert isinstance(task, MaskedTask)
    inputs = torch.randn(4, LENGTH, 1)
    states = task.network.backbone.states(task.network.encoder(inputs))
    expected = (normalised(states[-1]) + normalised(states[-2])) / 2
    torch.testing.assert_close(task.wanted(inputs), expected)
    with torch.no_grad():
        task.mask.add_(100)  # the teacher sees no mask
    torch.testing.assert_close(task.wanted(inputs), expected)


@pytest.mark.parametrize("name", ["cpc", "jepa", "data2vec"])
def test_every_objective_trains_the_network_and_not_the_teacher(name: str) -> None:
    objective = usual_objectives([name], {}, LENGTH, False)[name]
    task = objective.task(network(causal=objective.causal), seeded())
    task.loss(torch.randn(6, LENGTH, 1), seeded()).backward()
    gradients = {key: each.grad is not None for key, each in task.named_parameters() if "teacher" not in key}
    assert all(gradients.values()), gradients
    assert not any(each.requires_grad for key, each in task.named_parameters() if "teacher" in key)


def test_next_tokens_need_tokens() -> None:
    with pytest.raises(RecipeError, match="needs tokens"):
        build_objective("next-token").task(network(), seeded())
    tokens = SequenceNetwork(TokenEncoder(11, WIDTH), Backbone("attention", WIDTH, 1, 4))
    task = build_objective("next-token").task(tokens, seeded())
    assert float(task.loss(torch.randint(11, (4, 9)), seeded()).detach()) == pytest.approx(math.log(11), abs=1.0)


def test_offsets_and_negatives_suit_the_length() -> None:
    chosen = usual_objectives([], {}, 64, False)
    assert list(chosen) == ["cpc", "jepa", "data2vec"]
    assert chosen["cpc"] == ContrastivePrediction(offset=4, negatives=16)
    assert usual_objectives(["cpc"], {}, 9999, False)["cpc"] == ContrastivePrediction()
    assert usual_objectives(["cpc"], {"cpc": {"offset": 3}}, 64, False)["cpc"].model_dump()["offset"] == 3


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("cpcc", {}, "objective 'cpcc': is unknown; did you mean 'cpc'"),
        ("cpc", {"ofset": 3}, "field 'ofset' of cpc: is unknown; did you mean 'offset'"),
        ("cpc", {"offset": 0}, "cpc.offset = 0"),
        ("next-token", {"offset": 3}, "it has none"),
    ],
)
def test_bad_objectives(name: str, fields: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError, match=said.replace(".", r"\.")):
        build_objective(name, fields)


def test_every_objective_has_a_paper_or_is_plain() -> None:
    assert {name for name, each in OBJECTIVES.items() if not each.paper} == {"next-token"}
