"""Teachers: what is kept of a parent, and which of its blocks a child kept."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.alignment import aligned
from featherweight.core.errors import RecipeError
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.source import open_folder
from featherweight.core.stream import head_weight, stream
from featherweight.core.technique import build
from featherweight.testing.tiny import tiny_model, tiny_tokens
from featherweight.train.teacher import Teacher, ancestors, counterparts, spread


def test_states_are_those_of_plain_transformers(tiny: Path) -> None:
    parent, ids = open_folder(tiny), tiny_tokens(tiny, rows=3, length=20).ids
    teacher = Teacher.of(parent, ids, {0: 1, 5: 0}, Run())
    with torch.inference_mode():
        states = parent.module()(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(teacher.after[5], states[1])
    assert torch.equal(teacher.final, stream(parent, ids))
    assert torch.equal(teacher.head, head_weight(parent))
    torch.testing.assert_close(teacher.final, states[-1])


@pytest.mark.parametrize(
    ("blocks", "count", "expected"), [(30, 4, [6, 14, 21, 29]), (2, 4, [0, 1]), (3, 1, [2]), (5, 5, [0, 1, 2, 3, 4])]
)
def test_blocks_are_evenly_spread(blocks: int, count: int, expected: list[int]) -> None:
    assert spread(blocks, count) == expected


@pytest.mark.parametrize("kept", [[0, 2, 3], [1, 4], [0, 1, 2, 3, 4]])
def test_kept_blocks_are_found(models_folder: Path, kept: list[int]) -> None:
    """Also where the rest of the block was cut and rounded."""
    parent = open_folder(tiny_model(models_folder, num_hidden_layers=5))
    channels = {block: range(0, 256, 2) for block in range(5)}
    child = slice_model(parent, Keep(blocks=kept, ffn=channels))
    rounded = build("rtn", {"format": "Q4_0", "embedding": "Q4_0"}).apply(child, Run())
    assert counterparts(child, parent) == counterparts(rounded, parent) == kept


def test_kept_blocks_are_found_where_norms_are_all_one(models_folder: Path) -> None:
    """As in the embedded model, whose norms are folded into its linears."""
    parent = open_folder(tiny_model(models_folder, num_hidden_layers=5))
    ones = {name: torch.ones(entry.shape) for name, entry in parent.entries.items() if len(entry.shape) == 1}
    parent = parent.with_changes(ones)
    assert counterparts(slice_model(parent, Keep(blocks=[0, 3])), parent) == [0, 3]
    cut = Keep(blocks=[0, 3], ffn={b: range(128) for b in range(5)}, groups={b: [0] for b in range(5)})
    with pytest.raises(RecipeError, match="has no weights by which to tell which of its parent's 5 it kept; name"):
        counterparts(slice_model(parent, cut), parent)


def test_a_child_of_more_blocks_is_refused(tiny: Path, models_folder: Path) -> None:
    deep = open_folder(tiny_model(models_folder, num_hidden_layers=3))
    with pytest.raises(RecipeError, match="a model of 3 blocks: has more than its parent, which has 2"):
        counterparts(deep, open_folder(tiny))


def test_ancestors_are_the_parents_tensors_of_the_same_shape(models_folder: Path) -> None:
    parent = open_folder(tiny_model(models_folder, num_hidden_layers=5))
    child = slice_model(parent, Keep(blocks=[1, 4], ffn={block: range(128) for block in range(5)}))
    find = ancestors(child, parent, [1, 4])
    query = find("model.layers.1.self_attn.q_proj.weight")
    assert query is not None
    assert torch.equal(query, parent.tensor("model.layers.4.self_attn.q_proj.weight"))
    assert find("model.layers.1.mlp.up_proj.weight") is None


@given(st.integers(1, 4).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(rows, 7))), st.integers(0, 99))
def test_the_alignment_costs_least(sizes: tuple[int, int], seed: int) -> None:
    costs = torch.rand(sizes, generator=torch.Generator().manual_seed(seed)).tolist()
    found = aligned(costs)
    every = itertools.combinations(range(sizes[1]), sizes[0])
    totals = {picks: sum(row[column] for row, column in zip(costs, picks, strict=True)) for picks in every}
    assert totals[tuple(found)] == pytest.approx(min(totals.values()))
