"""Deltas of models, adapters and task vectors: exact values, their identity, and what does not belong to the base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from featherweight.core.adapter_folder import read_adapter
from featherweight.core.adapter_merge import merged
from featherweight.core.combining import with_sums
from featherweight.core.delta_sources import names_of, open_deltas, source_digest
from featherweight.core.deltas import Delta, ModelDelta, walk
from featherweight.core.errors import AdapterError, CheckpointError, MergeError
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.core.task_vector import VectorDelta, write_task_vector
from featherweight.testing.tiny import tiny_model, write_json
from fine_tunes import change, fine_tune
from lora_folders import lora_folder

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


@pytest.fixture
def base(tiny: Path) -> Model:
    return open_folder(tiny)


@pytest.fixture
def tuned(tiny: Path, tmp_path: Path) -> Path:
    return fine_tune(tiny, tmp_path / "ft-a", change(tiny, 0))


def whole(delta: Delta, base: Model, name: str) -> torch.Tensor:
    pieces = [piece[0].clone() for _, _, piece in walk(name, base, [delta])]
    return torch.cat(pieces).reshape(base.entries[name].shape)


class TestValues:
    def test_model(self, base: Model, tuned: Path) -> None:
        [delta] = open_deltas([tuned], base)
        values = load_file(tuned / "model.safetensors")
        for name in base.entries:
            expected = values[name].double() - base.stored(name).double()
            assert torch.equal(whole(delta, base, name), expected)
        assert delta.digest == open_folder(tuned).fingerprint == source_digest(tuned)
        assert delta.nbytes == base.nbytes

    @pytest.mark.parametrize("fields", [{}, {"use_rslora": True}, {"target_modules": ["embed_tokens", "q_proj"]}])
    def test_adapter(self, tiny: Path, base: Model, tmp_path: Path, fields: dict[str, object]) -> None:
        folder = lora_folder(tmp_path / "lora", tiny, **fields)
        [delta] = open_deltas([folder], base)
        expected = merged(read_adapter(folder), base)
        changed = {name for name in base.entries if delta.changes(name)}
        assert changed == {name for name in base.entries if expected.entries[name] is not base.entries[name]}
        for name in changed:
            found = (base.tensor(name).double() + whole(delta, base, name)).float()
            torch.testing.assert_close(found, expected.tensor(name), rtol=0, atol=1e-7)
        assert delta.digest == source_digest(folder)

    def test_foreign_task_vector_is_added(self, base: Model, tmp_path: Path) -> None:
        added = {NORM: torch.randn(64).to(torch.bfloat16)}
        save_file(added, tmp_path / "vector.safetensors")
        [delta] = open_deltas([tmp_path / "vector.safetensors"], base)
        assert torch.equal(whole(delta, base, NORM), added[NORM].double())
        assert not delta.changes(EMBEDDING)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_written_task_vector_is_exact(self, models_folder: Path, tmp_path: Path, dtype: str) -> None:
        """Nothing, little and everything changed: each kept in the fewest bytes, and the same delta to the bit."""
        folder = tiny_model(models_folder, dtype=dtype)
        changes = change(folder, 0)
        changes.pop(NORM)
        few = torch.zeros_like(changes[EMBEDDING])
        few[3, 5:9] = few[-1, -1] = 1.0
        changes[EMBEDDING] = few
        base = open_folder(folder)
        tuned = fine_tune(folder, tmp_path / "ft", changes)
        [delta] = open_deltas([tuned], base)
        assert isinstance(delta, ModelDelta)
        path = tmp_path / "vector.safetensors"
        write_task_vector(path, delta, base, threads=2)
        kept = load_file(path)
        assert NORM not in kept
        assert len(kept[f"{EMBEDDING}:values"]) == 5
        assert path.stat().st_size < 0.9 * (tuned / "model.safetensors").stat().st_size
        [again] = open_deltas([path], base)
        for name in base.entries:
            expected = whole(delta, base, name)
            assert torch.equal(whole(again, base, name) if again.changes(name) else 0 * expected, expected)

    def test_stands_for_the_model(self, base: Model, tuned: Path, tmp_path: Path) -> None:
        [delta] = open_deltas([tuned], base)
        assert isinstance(delta, ModelDelta)
        write_task_vector(tmp_path / "kept.safetensors", delta, base)
        kept = VectorDelta("ft-a", tmp_path / "kept.safetensors", base, (delta.kind, delta.digest, delta.nbytes))
        assert (kept.kind, kept.digest, kept.nbytes) == ("model", delta.digest, delta.nbytes)

    def test_base_itself_changes_nothing(self, tiny: Path, base: Model) -> None:
        [delta] = open_deltas([tiny], base)
        assert not delta.changes(EMBEDDING)
        assert delta.digest == base.fingerprint

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_one_whole_delta_gives_the_fine_tune_bit_for_bit(
        self, models_folder: Path, tmp_path: Path, dtype: str
    ) -> None:
        folder = tiny_model(models_folder, dtype=dtype)
        base = open_folder(folder)
        tuned = fine_tune(folder, tmp_path / "ft", change(folder, 0))
        result = with_sums(base, open_deltas([tuned], base), dict.fromkeys(base.entries, (1.0,)))
        assert result.fingerprint == open_folder(tuned).fingerprint


def test_names() -> None:
    assert names_of(["x/ft-a", "y/ft-b"]) == ["ft-a", "ft-b"]
    assert names_of(["x/ft", "y/ft"]) == ["x/ft", "y/ft"]
    assert names_of(["x/ft", "x/ft", "x/ft"]) == ["ft", "ft#2", "ft#3"]


Spoil = Callable[[Path], object]


class TestRefused:
    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda folder: write_json(folder / "config.json", {"rms_norm_eps": 0.1}), "has rms_norm_eps = 0.1, and"),
            (lambda folder: write_json(folder / "config.json", {"model_type": "mistral"}), "has model_type = mistral"),
            (lambda folder: rewrite(folder, {EMBEDDING: torch.zeros(3, 64)}), r"has the shape \[3, 64\]"),
            (lambda folder: rewrite(folder, {NORM: torch.ones(64, dtype=torch.int32)}), "is of the type I32"),
            (lambda folder: rewrite(folder, {NORM: None}), "lacks the tensor model.norm.weight"),
            (lambda folder: rewrite(folder, {"extra.weight": torch.ones(2)}), "holds the tensor extra.weight"),
            (lambda folder: retokenize(folder), "has another vocabulary than the base"),
        ],
    )  # fmt: skip
    def test_model(self, base: Model, tuned: Path, spoil: Spoil, said: str) -> None:
        spoil(tuned)
        with pytest.raises(MergeError, match=said):
            open_deltas([tuned], base)

    @pytest.mark.parametrize("changes", [{"eos_token_id": 5}, {"use_cache": False}, {"transformers_version": "4.0"}])
    def test_what_changes_no_tensor_is_let_pass(self, base: Model, tuned: Path, changes: dict[str, object]) -> None:
        write_json(tuned / "config.json", changes)
        assert open_deltas([tuned], base)

    def test_another_template_or_no_tokenizer(self, base: Model, tuned: Path) -> None:
        (tuned / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
        assert open_deltas([tuned], base)
        (tuned / "tokenizer.json").unlink()
        assert open_deltas([tuned], base)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_nan_is_named(self, base: Model, tuned: Path, bad: float) -> None:
        rewrite(tuned, {NORM: torch.full((64,), bad)})
        deltas = open_deltas([tuned], base)
        with pytest.raises(MergeError, match=rf"{tuned}, {NORM}: holds NaN or infinite values"):
            whole(deltas[0], base, NORM)

    def test_nothing(self, base: Model) -> None:
        with pytest.raises(MergeError, match="has nothing to merge"):
            open_deltas([], base)

    def test_missing(self, base: Model, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="does not exist"):
            open_deltas([tmp_path / "none"], base)

    def test_rounded_base(self, base: Model, tuned: Path) -> None:
        from featherweight.core.formats import get

        name = base.architecture.linears()[0]
        rounded = base.with_changes({name: get("int8-g64").fit(base.tensor(name))})
        with pytest.raises(MergeError, match="is of the type int8-g64; merge models of plain"):
            open_deltas([tuned], rounded)

    def test_adapter_of_another_base(self, models_folder: Path, base: Model, tmp_path: Path) -> None:
        other = tiny_model(models_folder, seed=7)
        with pytest.raises(AdapterError, match="belongs to another base"):
            open_deltas([lora_folder(tmp_path / "lora", other)], base)

    def test_vector_of_another_base(self, models_folder: Path, base: Model, tuned: Path, tmp_path: Path) -> None:
        [delta] = open_deltas([tuned], base)
        assert isinstance(delta, ModelDelta)
        write_task_vector(tmp_path / "v.safetensors", delta, base)
        other = open_folder(tiny_model(models_folder, seed=7))
        with pytest.raises(MergeError, match="belongs to another base: the fingerprint"):
            open_deltas([tmp_path / "v.safetensors"], other)

    @pytest.mark.parametrize(
        ("tensors", "said"),
        [
            ({"model.norm.bias": torch.ones(64)}, "is no tensor of"),
            ({NORM: torch.ones(63)}, r"has the shape \[63\], and that of the base is \[64\]"),
            ({NORM: torch.ones(64, dtype=torch.int8)}, "is of the type I8"),
        ],
    )
    def test_vector_that_does_not_fit(
        self, base: Model, tmp_path: Path, tensors: dict[str, torch.Tensor], said: str
    ) -> None:
        save_file(tensors, tmp_path / "v.safetensors")
        with pytest.raises(MergeError, match=said):
            open_deltas([tmp_path / "v.safetensors"], base)


def rewrite(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    values = {**load_file(folder / "model.safetensors"), **changes}
    save_file({name: each for name, each in values.items() if each is not None}, folder / "model.safetensors")


def retokenize(folder: Path) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = data["model"]["vocab"]
    first, second = sorted(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    data["model"]["merges"] = []
    path.write_text(json.dumps(data), encoding="utf-8")
