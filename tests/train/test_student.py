"""Students: neutral bit for bit, computed as stored, on their grids, with their zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.checkpoint import values
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.testing.tiny import tiny_model, tiny_tokens
from featherweight.train.student import Student, Trainable

WAYS = [Trainable(4), Trainable(None)]
FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "IQ4_NL", "int4-g64", "int4-g64-asym", "int8-channel", "int2-g32"]
LARGE = ["Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ4_XS"]  # in rows of 256


def rounded(model: Model, kind: str) -> Model:
    """A model with all linears of the blocks that take it in one format."""
    fitting = [name for name in model.architecture.linears() if get(kind).accepts(model.entries[name].shape)]
    return model.with_changes({name: get(kind).fit(model.tensor(name)) for name in fitting})


def logits(model: Model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.module()(ids, use_cache=False).logits


def computed(student: Student, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return student.states(ids, [])[0] @ student.head.T


def stir(student: Student, size: float = 0.3) -> None:
    """Random changes."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for kind, tensors in student.trained().items():
            for each in tensors:
                scale = size if kind == "grid" else size / 10
                each.add_(scale * torch.randn(each.shape, generator=generator))


@pytest.fixture(scope="module")
def ids(tiny: Path) -> torch.Tensor:
    return tiny_tokens(tiny, rows=3, length=20).ids


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model_type", ["llama", "phi3", "qwen2", "gemma3_text"])
def test_neutral_bit_for_bit(models_folder: Path, model_type: str, way: Trainable) -> None:
    folder = tiny_model(models_folder, model_type)
    model, ids = open_folder(folder), tiny_tokens(folder, rows=2, length=16).ids
    student = Student(model, way, Run())
    assert torch.equal(computed(student, ids), logits(model, ids))
    assert student.stored() == {}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [*FORMATS, *LARGE])
def test_neutral_on_a_grid(tiny: Path, ids: torch.Tensor, kind: str, way: Trainable) -> None:
    """Wherever in its cell a latent weight starts."""
    model, original = rounded(open_folder(tiny), kind), open_folder(tiny)
    for reference in (None, original.tensor):
        student = Student(model, way, Run(), reference)
        assert student.stored() == {}
        torch.testing.assert_close(computed(student, ids), logits(model, ids), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["F32", *FORMATS, *LARGE])
def test_what_is_stored_is_what_was_computed(tiny: Path, ids: torch.Tensor, kind: str, way: Trainable) -> None:
    model = open_folder(tiny) if kind == "F32" else rounded(open_folder(tiny), kind)
    before = model.fingerprint
    student = Student(model, way, Run())
    stir(student)
    changed = model.with_changes(student.stored())
    # Integers of compressed-tensors are multiplied in bf16 when they are read.
    near = {"rtol": 5e-2, "atol": 5e-2} if kind.startswith("int") else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(computed(student, ids), logits(changed, ids), **near)
    assert set(student.stored()) >= set(model.architecture.linears())
    assert changed.fingerprint != before == open_model_again(model).fingerprint


def open_model_again(model: Model) -> Model:
    """The same entries, hashed anew."""
    return model.with_changes({name: model.stored(name) for name in model.entries})


@pytest.mark.parametrize("kind", [*FORMATS, *LARGE])
def test_a_frozen_grid(tiny: Path, kind: str) -> None:
    """The same format, the same scales, the same bytes; only codes differ."""
    model = rounded(open_folder(tiny), kind)
    student = Student(model, Trainable(None), Run())
    stir(student, 1.0)
    for name, after in student.stored().items():
        before = model.stored(name)
        if len(after.shape) == 1 or not hasattr(before, "parts"):
            continue
        one, other = (get(kind).grid(each) for each in (before, after))
        assert (after.format, after.shape, after.nbytes) == (before.format, before.shape, before.nbytes)
        assert torch.equal(one.scale, other.scale)
        assert torch.equal(one.minimum, other.minimum)
        codes = get(kind).codes(after)
        assert bool(((codes >= one.low) & (codes <= one.high)).all())
        assert not torch.equal(codes, get(kind).codes(before))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["F32", "Q4_0", "int4-g64"])
def test_zeros_stay_or_move(tiny: Path, ids: torch.Tensor, kind: str, way: Trainable) -> None:
    model = build("magnitude", {"sparsity": 0.5}).apply(open_folder(tiny), Run())
    model = model if kind == "F32" else rounded(model, kind)
    zeros = {name: model.tensor(name) == 0 for name in model.architecture.linears()}
    assert all(bool(each.float().mean() >= 0.5) for each in zeros.values())
    student = Student(model, way, Run())
    stir(student, 1.0)
    kept = student.stored()
    assert all(bool((values(kept[name])[each] == 0).all()) for name, each in zeros.items())
    near = {"rtol": 5e-2, "atol": 5e-2} if kind.startswith("int") else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(computed(student, ids), logits(model.with_changes(kept), ids), **near)
    free = Student(model, Trainable(way.rank, keep_zeros=False), Run())
    stir(free, 1.0)
    assert all(bool((values(free.stored()[name])[each] != 0).any()) for name, each in zeros.items())


def test_a_few_zeros_are_kept_when_it_is_stored(tiny: Path) -> None:
    """Too few to be a pruned matrix: the fast way of computing knows nothing of them."""
    model = open_folder(tiny)
    name = model.architecture.linears()[0]
    weight = model.tensor(name).clone()
    weight[3, 5], weight[0, 0] = 0.0, -0.0
    student = Student(model.with_changes({name: weight}), Trainable(4), Run())
    stir(student)
    stored = student.stored()[name]
    assert stored[3, 5] == stored[0, 0] == 0
    assert bool(torch.signbit(stored[0, 0])), "a zero lost its sign"


def test_half_precision_stays_half(models_folder: Path) -> None:
    model = open_folder(tiny_model(models_folder, dtype="bfloat16"))
    student = Student(model, Trainable(4), Run())
    stir(student)
    assert {each.dtype for each in student.stored().values()} == {torch.bfloat16}


def test_vectors_may_stay(tiny: Path) -> None:
    student = Student(open_folder(tiny), Trainable(4, vectors=False), Run())
    stir(student)
    assert student.trained()["vectors"] == []
    assert {values(each).dim() for each in student.stored().values()} == {2}


def test_what_was_rounded_by_a_hair_moves_first(tiny: Path) -> None:
    original = open_folder(tiny)
    model = rounded(original, "Q4_0")
    student = Student(model, Trainable(None, keep_zeros=False), Run(), original.tensor)
    name = model.architecture.linears()[0]
    matrix = student.matrices[name]
    with torch.no_grad():
        matrix.change.change.add_(0.1)  # type: ignore[union-attr]
    grid = get("Q4_0").grid(model.stored(name))
    moved = values(student.stored()[name]) != model.tensor(name)
    position = (original.tensor(name) - model.tensor(name)) / grid.spacing.repeat_interleave(32, 1)
    codes = get("Q4_0").codes(model.stored(name))
    inside = (codes > grid.low) & (codes < grid.high)
    assert bool(moved[(position > 0.42) & inside].all())
    assert not bool(moved[position < 0.38].any())
