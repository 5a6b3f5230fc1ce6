"""unmerge: rebuild is never having merged, subtract is theta_M - a_k Q_k; tampering is named."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import featherweight as fw
from featherweight.core.delta_sources import open_deltas
from featherweight.core.deltas import walk
from featherweight.core.errors import LedgerError, MergeError
from featherweight.core.gram import measure_grams
from featherweight.core.orthogonal import gram_schmidt
from featherweight.core.receipt import read_ledger
from featherweight.core.source import open_folder
from fine_tunes import fine_tunes

Command = Callable[..., Any]
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("orthogonal-deltas", {}),
    ("orthogonal-deltas", {"granularity": "model", "dtype": "bfloat16"}),
    ("linear", {}),
    ("task-arithmetic", {"lambda_": 0.5}),
    ("ties", {"density": [0.5, 0.2, 0.3]}),
    ("dare", {"density": 0.5, "variant": "ties"}),
]
WEIGHTS = [1.0, 0.5, 0.7]


@pytest.fixture(scope="module")
def tuned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fine_tunes(tiny, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def merged(tiny: Path, tuned: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ft-a, ft-b and ft-c; tests may read it and write nothing."""
    return fw.merge(tiny, tuned, tmp_path_factory.mktemp("merged") / "abc", weight=WEIGHTS).folder


@pytest.fixture
def copy(merged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(merged, tmp_path / "abc"))


class TestRebuild:
    @pytest.mark.parametrize(("method", "fields"), SETTINGS)
    @pytest.mark.parametrize("gone", [0, 1, 2])
    def test_is_never_having_merged(
        self, tiny: Path, tuned: list[Path], tmp_path: Path, method: str, fields: dict[str, Any], gone: int
    ) -> None:
        """The model to the bit, and the ledger up to the line that says where it comes from."""
        whole = fw.merge(tiny, tuned, tmp_path / "abc", method=method, weight=WEIGHTS, fields=fields)
        found = fw.unmerge(whole.folder, f"ft-{'abc'[gone]}", tmp_path / "without")
        left = [index for index in range(3) if index != gone]
        fields = {
            name: [each[index] for index in left] if isinstance(each, list) else each for name, each in fields.items()
        }
        expected = fw.merge(
            tiny, [tuned[index] for index in left], tmp_path / "others", method=method,
            weight=[WEIGHTS[index] for index in left], fields=fields,
        )  # fmt: skip
        assert found.merged.facts["fingerprint"] == expected.facts["fingerprint"]
        weights = "model.safetensors"
        assert (found.folder / weights).read_bytes() == (expected.folder / weights).read_bytes()
        ours, theirs = (read_ledger(each / "ledger.jsonl") for each in (found.folder, expected.folder))
        assert [each.digest for each in ours[:-1]] == [each.digest for each in theirs]
        assert ours[-1].content["done"] == f"rebuilt without ft-{'abc'[gone]}"

    def test_all_of_them_is_the_base(self, merged: Path, tiny: Path, tmp_path: Path) -> None:
        found = fw.unmerge(merged, ["ft-a", "ft-b", "ft-c"], tmp_path / "none")
        assert found.merged.facts["fingerprint"] == open_folder(tiny).fingerprint
        first = fw.unmerge(merged, "ft-b", tmp_path / "ac").folder
        second = fw.unmerge(first, "ft-a", tmp_path / "c").folder
        third = fw.unmerge(second, "ft-c", tmp_path / "empty")
        assert third.merged.facts["fingerprint"] == open_folder(tiny).fingerprint

    def test_command(self, command: Command, merged: Path, tmp_path: Path) -> None:
        ended = command("unmerge", merged, "ft-b", "--mode", "rebuild", "--out", tmp_path / "out")
        assert ended.status == 0, ended.err
        for said in ("taken out", "along it now", "what the others share with it", "fingerprint"):
            assert said in ended.out

    def test_does_not_need_what_went(self, tiny: Path, merged: Path, tuned: list[Path], tmp_path: Path) -> None:
        sources = {
            f"ft-{name}": shutil.copytree(each, tmp_path / name) for name, each in zip("ac", tuned[::2], strict=True)
        }
        folder = self.moved(merged, tmp_path)
        found = fw.unmerge(folder, "ft-b", tmp_path / "out", sources=sources)
        assert found.residuals[0].after is None
        assert found.residuals[0].norm > 0
        assert found.merged.facts["fingerprint"] == fw.merge(
            tiny, tuned[::2], tmp_path / "ac", weight=WEIGHTS[::2]
        ).facts["fingerprint"]  # fmt: skip
        with pytest.raises(
            MergeError, match=r"ft-a, merged into .* is not at /gone/ft-a any more; say where it is with"
        ):
            fw.unmerge(folder, "ft-b", tmp_path / "nowhere")

    def moved(self, merged: Path, tmp_path: Path) -> Path:
        """A copy whose ledger names places that are not there any more."""
        folder = Path(shutil.copytree(merged, tmp_path / "moved"))
        path = folder / "ledger.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines[1:4]:
            line["volatile"]["path"] = f"/gone/{line['content']['name']}"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_merged_and_taken_out_in_any_order_was_never_merged(
    tiny: Path, tuned: list[Path], tmp_path: Path, data: st.DataObject
) -> None:
    """Merge, add, take out: the model and the ledger are those of merging what is left, in the order of arrival."""
    method, fields = data.draw(st.sampled_from([("orthogonal-deltas", {}), ("ties", {}), ("dare", {"density": 0.5})]))
    order = data.draw(st.permutations(range(3)))
    weights = data.draw(st.lists(st.sampled_from([-0.5, 0.0, 0.3, 1.0, 2.0]), min_size=3, max_size=3))
    first = data.draw(st.integers(1, 3))
    gone = data.draw(st.sets(st.sampled_from(order), min_size=1, max_size=3))
    steps = iter(Path(tempfile.mkdtemp(dir=tmp_path)) / str(number) for number in range(10))
    models = [tuned[index] for index in order]
    folder = fw.merge(
        tiny, models[:first], next(steps), method=method, weight=weights[:first], fields=fields
    ).folder  # fmt: skip
    for model, weight in zip(models[first:], weights[first:], strict=True):
        folder = fw.merge_onto(folder, [model], next(steps), weight=weight).folder
    for index in sorted(gone, reverse=data.draw(st.booleans())):
        folder = fw.unmerge(folder, tuned[index].name, next(steps)).folder
    left = [place for place, index in enumerate(order) if index not in gone]
    if not left:
        assert open_folder(folder).fingerprint == open_folder(tiny).fingerprint
        return
    expected = fw.merge(
        tiny, [models[place] for place in left], next(steps), method=method,
        weight=[weights[place] for place in left], fields=fields,
    )  # fmt: skip
    assert open_folder(folder).fingerprint == expected.facts["fingerprint"]
    ours, theirs = (read_ledger(each / "ledger.jsonl") for each in (folder, expected.folder))
    assert [each.digest for each in ours[: len(theirs)]] == [each.digest for each in theirs]


class TestSubtract:
    @pytest.mark.parametrize("gone", [0, 1, 2])
    def test_is_the_merged_model_minus_its_part(
        self, merged: Path, tiny: Path, tuned: list[Path], tmp_path: Path, gone: int
    ) -> None:
        found = fw.unmerge(merged, f"ft-{'abc'[gone]}", tmp_path / "out", mode="subtract")
        base, whole, result = (load_file(each / "model.safetensors") for each in (tiny, merged, found.folder))
        model = open_folder(tiny)
        deltas = open_deltas(tuned, model)
        for name in base:
            gram = measure_grams(model, deltas).by_tensor[name]
            every = torch.cat([pieces.clone() for _, _, pieces in walk(name, model, deltas)], 1)
            part = WEIGHTS[gone] * (gram_schmidt(gram) @ every)[gone].reshape(base[name].shape)
            expected = (whole[name].double() - part).float()
            torch.testing.assert_close(result[name], expected, rtol=0, atol=1e-6)

    def test_leaves_influence_on_later_ones(self, merged: Path, tmp_path: Path) -> None:
        """Cosines are 0.3: removing the first is far from a rebuild, removing the last is one."""
        distances = [fw.unmerge(merged, f"ft-{name}", tmp_path / name, mode="subtract").from_rebuild for name in "abc"]
        assert distances[0] > distances[1] > 0.1  # type: ignore[operator]
        assert distances[2] == pytest.approx(0, abs=1e-9)

    def test_distance_from_rebuild_is_what_lies_between(self, merged: Path, tiny: Path, tmp_path: Path) -> None:
        subtracted = fw.unmerge(merged, "ft-a", tmp_path / "subtracted", mode="subtract")
        rebuilt = fw.unmerge(merged, "ft-a", tmp_path / "rebuilt")
        base, one, other = (
            torch.cat(
                [each.double().reshape(-1) for _, each in sorted(load_file(folder / "model.safetensors").items())]
            )
            for folder in (tiny, subtracted.folder, rebuilt.folder)
        )
        assert subtracted.from_rebuild == pytest.approx(float((one - other).norm() / (other - base).norm()), rel=1e-4)

    def test_equals_a_rebuild_where_changes_are_orthogonal(self, tiny: Path, tmp_path: Path) -> None:
        from fine_tunes import change, fine_tune

        changes = change(tiny, 0)
        models = [
            fine_tune(tiny, tmp_path / f"ft-{part}", {name: each for name, each in changes.items() if part in name})
            for part in ("mlp", "self_attn", "embed")
        ]
        whole = fw.merge(tiny, models, tmp_path / "whole")
        subtracted = fw.unmerge(whole.folder, "ft-mlp", tmp_path / "subtracted", mode="subtract")
        rebuilt = fw.unmerge(whole.folder, "ft-mlp", tmp_path / "rebuilt")
        assert subtracted.from_rebuild == 0
        for name, each in load_file(subtracted.folder / "model.safetensors").items():
            expected = load_file(rebuilt.folder / "model.safetensors")[name]
            torch.testing.assert_close(each, expected, rtol=0, atol=1e-6)

    def test_residual(self, merged: Path, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        [found] = fw.unmerge(merged, "ft-c", tmp_path / "out", mode="subtract").residuals
        base, removed, before, after = (
            torch.cat(
                [each.double().reshape(-1) for _, each in sorted(load_file(folder / "model.safetensors").items())]
            )
            for folder in (tiny, tuned[2], merged, tmp_path / "out")
        )
        direction = removed - base
        for model, measured in ((before, found.before), (after, found.after)):
            assert measured is not None
            change = model - base
            along = float(change @ direction / direction.norm())
            assert measured[1] == pytest.approx(along, rel=1e-6)
            assert measured[0] == pytest.approx(along / float(change.norm()), rel=1e-6)
        assert found.norm == pytest.approx(float(direction.norm()), rel=1e-6)

    def test_several_in_turn_and_what_follows(
        self, merged: Path, tiny: Path, tuned: list[Path], tmp_path: Path
    ) -> None:
        once = fw.unmerge(merged, ["ft-b", "ft-c"], tmp_path / "once", mode="subtract")
        first = fw.unmerge(merged, "ft-b", tmp_path / "first", mode="subtract")
        second = fw.unmerge(first.folder, "ft-c", tmp_path / "second", mode="subtract")
        for name, each in load_file(once.folder / "model.safetensors").items():
            expected = load_file(second.folder / "model.safetensors")[name]
            torch.testing.assert_close(each, expected, rtol=0, atol=1e-6)
        with pytest.raises(MergeError, match="ft-b: was subtracted already"):
            fw.unmerge(second.folder, "ft-b", tmp_path / "x", mode="subtract")
        with pytest.raises(MergeError, match="had ft-b subtracted, which cannot be replayed"):
            fw.merge_onto(first.folder, tuned[:1], tmp_path / "x")
        rebuilt = fw.unmerge(first.folder, "ft-c", tmp_path / "rebuilt")  # without both
        assert rebuilt.merged.facts["fingerprint"] == fw.merge(tiny, tuned[:1], tmp_path / "a").facts["fingerprint"]

    @pytest.mark.parametrize("method", ["ties", "dare"])
    def test_not_defined(self, tiny: Path, tuned: list[Path], tmp_path: Path, method: str) -> None:
        folder = fw.merge(tiny, tuned, tmp_path / "abc", method=method).folder
        with pytest.raises(MergeError, match=f"--mode subtract with {method}: is not defined"):
            fw.unmerge(folder, "ft-a", tmp_path / "out", mode="subtract")
        assert not (tmp_path / "out").exists()


class TestTampering:
    """Whatever is done to the ledger, unmerge names the line and writes nothing."""

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_ledger(self, merged: Path, tmp_path: Path, data: st.DataObject) -> None:
        lines = (merged / "ledger.jsonl").read_text().splitlines()
        kind = data.draw(st.sampled_from(["remove", "swap", "repeat", "change", "cut"]))
        place = data.draw(st.integers(0, len(lines) - 1))
        if kind == "remove":
            lines = lines[:place] + lines[place + 1 :]
        elif kind == "swap":
            other = data.draw(st.integers(0, len(lines) - 1).filter(lambda each: each != place))
            lines[place], lines[other] = lines[other], lines[place]
        elif kind == "repeat":
            lines.insert(place, lines[place])
        elif kind == "cut":
            lines = lines[:place]
        else:
            record = json.loads(lines[place])
            key = data.draw(st.sampled_from(sorted(record["content"])))
            record["content"][key] = "changed"
            lines[place] = json.dumps(record)
        with pytest.raises(LedgerError, match=r"ledger.jsonl line \d+|has lost|is not"):
            refused_with(merged, lines, tmp_path)

    def test_facts_are_lost(self, copy: Path, tmp_path: Path) -> None:
        (copy / "merge.json").unlink()
        with pytest.raises(LedgerError, match=r"has lost its merge\.json"):
            fw.unmerge(copy, "ft-a", tmp_path / "out")

    def test_weights_changed(self, copy: Path, tmp_path: Path) -> None:
        weights = load_file(copy / "model.safetensors")
        weights["model.norm.weight"][0] += 1e-3
        save_file(weights, copy / "model.safetensors")
        with pytest.raises(MergeError, match="holds other weights than its ledger says"):
            fw.unmerge(copy, "ft-a", tmp_path / "out")

    def test_a_fine_tune_changed(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        sources = [Path(shutil.copytree(each, tmp_path / each.name)) for each in tuned]
        folder = fw.merge(tiny, sources, tmp_path / "abc").folder
        weights = load_file(sources[2] / "model.safetensors")
        weights["model.norm.weight"][0] += 1e-3
        save_file(weights, sources[2] / "model.safetensors")
        for mode in ("rebuild", "subtract"):
            with pytest.raises(MergeError, match=r"ft-c at .* is not what was merged: its digest is"):
                fw.unmerge(folder, "ft-a", tmp_path / "out", mode=mode)
        assert not (tmp_path / "out").exists()

    def test_another_base(self, merged: Path, tuned: list[Path], tmp_path: Path) -> None:
        with pytest.raises(MergeError, match=r"is not the base of .*: its fingerprint is"):
            fw.unmerge(merged, "ft-a", tmp_path / "out", base=tuned[0])

    def test_kept_delta_changed(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        folder = fw.merge(tiny, tuned[:2], tmp_path / "ab", keep=True).folder
        path = folder / "deltas" / "001.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
        with pytest.raises(MergeError, match="is missing or was changed since it was kept"):
            fw.unmerge(folder, "ft-a", tmp_path / "out")


def refused_with(merged: Path, lines: list[str], tmp_path: Path) -> None:
    """Unmerges a copy with another ledger."""
    copy = tmp_path / "tampered"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(merged, copy)
    (copy / "ledger.jsonl").write_text("".join(line + "\n" for line in lines))
    try:
        fw.unmerge(copy, "ft-a", tmp_path / "out")
    finally:
        assert not (tmp_path / "out").exists()
