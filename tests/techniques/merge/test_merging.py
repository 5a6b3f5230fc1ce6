"""Techniques that merge: conformance, neutral settings, the exact facts of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from featherweight.core.delta_sources import open_deltas
from featherweight.core.deltas import walk
from featherweight.core.errors import RecipeError
from featherweight.core.gram import measure_grams
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.testing import check_technique
from featherweight.testing.tiny import tiny_model, tiny_tokens
from featherweight.train.merge_technique import MergeTechnique, SummingMerge
from fine_tunes import change, fine_tune, fine_tunes
from lora_folders import logits, lora_folder

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"weight": [0.5, 0.2, 1.0]}),
    ("linear", {"normalize": False, "weight": [0.5, 0.25, 0.25]}),
    ("task-arithmetic", {"weight": 0.4, "lambda_": 0.5}),
    ("task-arithmetic", {"normalize": True}),
    ("orthogonal-deltas", {}),
    ("orthogonal-deltas", {"granularity": "model", "weight": [1.0, 0.5, 0.7], "dtype": "bfloat16"}),
    ("ties", {"density": 0.3}),
    ("ties", {"density": [0.2, 0.5, 1.0], "weight": [1.0, 0.5, 0.2], "normalize": False, "rescale": True}),
    ("dare", {"density": 0.5}),
    ("dare", {"density": 0.5, "variant": "ties", "normalize": True}),
]
METHODS = ("linear", "task-arithmetic", "orthogonal-deltas", "ties", "dare")


@pytest.fixture(scope="module")
def tuned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fine_tunes(tiny, tmp_path_factory.mktemp("tuned"))


def merging(method: str, models: Sequence[Path], **fields: Any) -> MergeTechnique:
    technique = build(method, {"models": [str(each) for each in models], **fields})
    assert isinstance(technique, MergeTechnique)
    return technique


def merged(method: str, base: Path, models: Sequence[Path], run: Run | None = None, **fields: Any) -> Model:
    return merging(method, models, **fields).apply(open_folder(base), run or Run())


@pytest.mark.parametrize(("method", "fields"), SETTINGS)
def test_conformance(method: str, fields: dict[str, Any], models_folder: Path, tmp_path: Path) -> None:
    base = tiny_model(models_folder, num_hidden_layers=3)  # what the suite tries it on
    technique = merging(method, fine_tunes(base, tmp_path), **fields)
    check_technique(type(technique), technique)


@pytest.mark.parametrize("method", METHODS)
def test_no_model_is_the_base(method: str, tiny: Path) -> None:
    base = open_folder(tiny)
    assert build(method, {}).apply(base, Run()) is base


@pytest.mark.parametrize("method", ["task-arithmetic", "orthogonal-deltas", "ties", "dare"])
def test_weights_of_zero_are_the_base(method: str, tiny: Path, tuned: list[Path]) -> None:
    assert merged(method, tiny, tuned, weight=0.0).fingerprint == open_folder(tiny).fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["linear", "task-arithmetic", "orthogonal-deltas"])
def test_one_model_is_that_model(method: str, dtype: str, models_folder: Path, tmp_path: Path) -> None:
    base = tiny_model(models_folder, dtype=dtype)
    [only] = fine_tunes(base, tmp_path, count=1)
    assert merged(method, base, [only]).fingerprint == open_folder(only).fingerprint


def test_one_adapter_is_what_peft_computes(tiny: Path, tmp_path: Path) -> None:
    folder = lora_folder(tmp_path / "lora", tiny)
    result = merged("orthogonal-deltas", tiny, [folder])
    result.save(tmp_path / "merged")
    torch.testing.assert_close(logits(tmp_path / "merged"), logits(tiny, folder), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["gemma3_text", "qwen2", "phi3"])
def test_other_architectures(method: str, architecture: str, models_folder: Path, tmp_path: Path) -> None:
    """Tied embeddings, biases and fused matrices are tensors like others."""
    base = tiny_model(models_folder, architecture)
    result = merged(method, base, fine_tunes(base, tmp_path, count=2))
    result.save(tmp_path / "merged")
    assert bool(logits(tmp_path / "merged").isfinite().all())


class TestFormulas:
    """Against plain float64 arithmetic on whole tensors."""

    def deltas(self, base: Path, models: Sequence[Path]) -> dict[str, list[torch.Tensor]]:
        own, others = load_file(base / "model.safetensors"), [load_file(each / "model.safetensors") for each in models]
        return {name: [each[name].double() - value.double() for each in others] for name, value in own.items()}

    def assert_equal(self, result: Model, base: Path, expected: dict[str, torch.Tensor]) -> None:
        own = load_file(base / "model.safetensors")
        for name, value in expected.items():
            torch.testing.assert_close(result.tensor(name), (own[name].double() + value).float(), rtol=0, atol=1e-6)

    def test_linear(self, tiny: Path, tuned: list[Path]) -> None:
        weights = [0.5, 0.2, 1.0]
        expected = {
            name: sum(weight * each for weight, each in zip(weights, deltas, strict=True)) / sum(weights)
            for name, deltas in self.deltas(tiny, tuned).items()
        }
        self.assert_equal(merged("linear", tiny, tuned, weight=weights), tiny, expected)

    def test_linear_without_normalisation(self, tiny: Path, tuned: list[Path]) -> None:
        result = merged("linear", tiny, tuned, weight=[0.5, 0.2, 1.0], normalize=False)
        own = load_file(tiny / "model.safetensors")
        expected = {
            name: 0.7 * own[name].double() + 0.5 * first + 0.2 * second + third
            for name, (first, second, third) in self.deltas(tiny, tuned).items()
        }
        self.assert_equal(result, tiny, expected)

    def test_task_arithmetic(self, tiny: Path, tuned: list[Path]) -> None:
        result = merged("task-arithmetic", tiny, tuned, weight=[0.5, -0.2, 1.0], lambda_=0.5)
        expected = {
            name: 0.5 * (0.5 * first - 0.2 * second + third)
            for name, (first, second, third) in self.deltas(tiny, tuned).items()
        }
        self.assert_equal(result, tiny, expected)

    @pytest.mark.parametrize("granularity", ["tensor", "model"])
    def test_orthogonal(self, tiny: Path, tuned: list[Path], granularity: str) -> None:
        """Modified Gram-Schmidt on the vectors themselves."""
        weights = [1.0, 0.5, 0.7]
        deltas = self.deltas(tiny, tuned)
        if granularity == "model":
            flat = [torch.cat([deltas[name][index].reshape(-1) for name in deltas]) for index in range(3)]
            parts = [each.split([value[0].numel() for value in deltas.values()]) for each in projected(flat)]
            found = {name: [part[place] for part in parts] for place, name in enumerate(deltas)}
        else:
            found = {name: projected([each.reshape(-1) for each in every]) for name, every in deltas.items()}
        expected = {
            name: sum(weight * each for weight, each in zip(weights, every, strict=True)).reshape(deltas[name][0].shape)
            for name, every in found.items()
        }
        result = merged("orthogonal-deltas", tiny, tuned, weight=weights, granularity=granularity)
        self.assert_equal(result, tiny, expected)

    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize("density", [0.2, 1.0])
    def test_ties(self, tiny: Path, tuned: list[Path], density: float, normalize: bool) -> None:
        weights = [1.0, 0.5, 0.2]
        expected = {
            name: elected([largest(each.float(), density) for each in every], weights, normalize)
            for name, every in self.deltas(tiny, tuned).items()
        }
        result = merged("ties", tiny, tuned, density=density, weight=weights, normalize=normalize)
        self.assert_equal(result, tiny, expected)


def row_losses(module: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = module(ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def projected(vectors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    done: list[torch.Tensor] = []
    for vector in vectors:
        left = vector.clone()
        for earlier in done:
            left -= (left @ earlier) / (earlier @ earlier) * earlier
        done.append(left)
    return done


def largest(values: torch.Tensor, density: float) -> torch.Tensor:
    flat = values.reshape(-1)
    kept = flat.abs().argsort(descending=True, stable=True)[: max(1, int(density * flat.numel()))]
    return torch.zeros_like(flat).index_put_((kept,), flat[kept]).reshape(values.shape)


def elected(values: Sequence[torch.Tensor], weights: Sequence[float], normalize: bool) -> torch.Tensor:
    factors = torch.tensor(weights).reshape(-1, *[1] * values[0].dim())
    pieces = torch.stack(list(values)) * factors
    agree = pieces.sign() == torch.where(pieces.sum(0) >= 0, 1.0, -1.0)
    total = (pieces * agree).sum(0)
    divisor = (factors * agree).sum(0)
    return (total / divisor.where(divisor != 0, torch.tensor(1.0)) if normalize else total).double()


class TestOrthogonal:
    @pytest.mark.parametrize("granularity", ["tensor", "model"])
    def test_orthogonal_in_float32(self, tiny: Path, tuned: list[Path], granularity: str) -> None:
        base = open_folder(tiny)
        deltas = open_deltas(tuned, base)
        technique = build("orthogonal-deltas", {"granularity": granularity})
        assert isinstance(technique, SummingMerge)
        basis = technique.basis(measure_grams(base, deltas))
        made = {
            name: torch.cat([(matrix @ pieces).float() for _, _, pieces in walk(name, base, deltas)], 1)
            for name, matrix in basis.items()
        }
        spaces = [torch.cat(list(made.values()), 1), *(made.values() if granularity == "tensor" else ())]
        for vectors in spaces:
            unit = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
            assert float((unit @ unit.T).fill_diagonal_(0).abs().max()) < 1e-6

    def test_duplicate_is_dropped_and_said(self, tiny: Path, tuned: list[Path]) -> None:
        run, said = Run(), []

        class Listening(Progress):
            def say(self, message: str) -> None:
                said.append(message)

        run.progress = Listening()
        twice = merged("orthogonal-deltas", tiny, [tuned[0], tuned[0], tuned[1]], run)
        assert twice.fingerprint == merged("orthogonal-deltas", tiny, [tuned[0], tuned[1]]).fingerprint
        count = len(twice.entries)
        assert f"ft-a#2 adds nothing to those before it in {count} of {count} tensors: dropped there" in said
        assert run.notes["dropped"] == {"ft-a#2": count}

    def test_orthogonal_changes_are_task_arithmetic(self, tiny: Path, tmp_path: Path) -> None:
        """Each changes tensors that the others do not."""
        changes = change(tiny, 0)
        models = [
            fine_tune(tiny, tmp_path / f"ft-{part}", {name: each for name, each in changes.items() if part in name})
            for part in ("mlp", "self_attn", "embed")
        ]
        found = merged("orthogonal-deltas", tiny, models)
        assert found.fingerprint == merged("task-arithmetic", tiny, models).fingerprint

    def test_no_op_gives_the_losses_of_task_arithmetic(self, tiny: Path, tmp_path: Path) -> None:
        """Cosines below 0.01: less than a hundredth of what merging does to the loss of any row."""
        models, run = fine_tunes(tiny, tmp_path, shared=0.0), Run()
        one = merged("orthogonal-deltas", tiny, models, run, granularity="model")
        assert max(abs(each) for each in run.notes["cosines"].values()) < 0.01
        ids = tiny_tokens(tiny, rows=16, length=48).ids
        base, found, expected = (
            row_losses(each.module(), ids) for each in (open_folder(tiny), one, merged("task-arithmetic", tiny, models))
        )
        assert float((found - expected).abs().max()) < 0.01 * float((expected - base).abs().max())

    def test_order_matters_for_similar_changes_only_by_what_they_share(self, tiny: Path, tuned: list[Path]) -> None:
        one = merged("orthogonal-deltas", tiny, tuned)
        other = merged("orthogonal-deltas", tiny, tuned[::-1])
        assert one.fingerprint != other.fingerprint


class TestDare:
    def test_what_is_left_out_depends_on_the_model_alone(self, tiny: Path, tuned: list[Path]) -> None:
        both = merged("dare", tiny, tuned[:2], density=0.5, weight=[1.0, 0.0])
        alone = merged("dare", tiny, tuned[:1], density=0.5)
        turned = merged("dare", tiny, tuned[1::-1], density=0.5, weight=[0.0, 1.0])
        assert both.fingerprint == alone.fingerprint == turned.fingerprint

    def test_seed(self, tiny: Path, tuned: list[Path]) -> None:
        one, other = (merged("dare", tiny, tuned, Run(seed=seed), density=0.5) for seed in (0, 1))
        assert one.fingerprint != other.fingerprint

    def test_sum_of_sizes_stays(self, tiny: Path, tuned: list[Path]) -> None:
        result = merged("dare", tiny, tuned[:1], density=0.3)
        own, other = load_file(tiny / "model.safetensors"), load_file(tuned[0] / "model.safetensors")
        name = "model.embed_tokens.weight"
        change, expected = result.tensor(name) - own[name], other[name] - own[name]
        assert float((change != 0).float().mean()) == pytest.approx(0.3, abs=0.02)
        assert float(change.abs().sum()) == pytest.approx(float(expected.abs().sum()), rel=1e-3)


class TestSaidAndRefused:
    def test_cosines_are_said_before_anything_is_merged(self, tiny: Path, tuned: list[Path]) -> None:
        said: list[str] = []

        class Listening(Progress):
            def say(self, message: str) -> None:
                said.append(message)

        run = Run(progress=Listening())
        merged("ties", tiny, tuned, run)  # nothing of the result is read
        assert said[0].startswith("cosine of ft-a and ft-b: +0.3")
        assert "a cosine is above 0.1: subtraction is not enough" in said[-1]
        assert run.notes["cosines"]["ft-a, ft-b"] == pytest.approx(0.3, abs=0.01)

    def test_no_op_is_said(self, tiny: Path, tmp_path: Path) -> None:
        run, said = Run(), []

        class Listening(Progress):
            def say(self, message: str) -> None:
                said.append(message)

        run.progress = Listening()
        merged("orthogonal-deltas", tiny, fine_tunes(tiny, tmp_path, shared=0.0), run)
        assert "orthogonal-deltas is a no-op" in said[-1]

    def test_unchanged_model_has_no_cosine(self, tiny: Path, tuned: list[Path]) -> None:
        run = Run()
        result = merged("orthogonal-deltas", tiny, [tiny, tuned[0]], run)
        assert list(run.notes["cosines"].values()) == [None]
        assert result.fingerprint == open_folder(tuned[0]).fingerprint

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"weight": [1.0, 2.0]}, "are 2 values for 3 models; give one for all, or one a model"),
            ({"weight": float("nan")}, "weight"),
            ({"density": 1.5}, "density"),
        ],
    )
    def test_fields(self, tuned: list[Path], fields: dict[str, Any], said: str) -> None:
        with pytest.raises(RecipeError, match=said):
            merging("ties", tuned, **fields)

    def test_weights_that_cancel(self, tiny: Path, tuned: list[Path]) -> None:
        with pytest.raises(RecipeError, match="add up to nothing"):
            merged("linear", tiny, tuned, weight=[1.0, -1.0, 0.0])


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_threads_changes_nothing(
    method: str, tiny: Path, tuned: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prints, before = set(), torch.get_num_threads()
    try:
        for threads in (1, 3):
            monkeypatch.setattr("featherweight.core.gram.usual_threads", lambda threads=threads: threads)
            torch.set_num_threads(threads)
            prints.add(merged(method, tiny, tuned).fingerprint)
    finally:
        torch.set_num_threads(before)
    assert len(prints) == 1
