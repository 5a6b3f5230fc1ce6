"""merge: the folder that it writes, its ledger, adding a model later, deltas in the folder, fitted coefficients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import featherweight as fw
from featherweight.core.merge_ledger import read_merge
from featherweight.core.progress import Progress
from featherweight.core.receipt import read_ledger
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.steps import apply_recipe
from featherweight.verify.gate import Verdict
from fine_tunes import fine_tunes
from lora_folders import lora_folder

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def tuned(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fine_tunes(tiny, tmp_path_factory.mktemp("tuned"), count=4)


@pytest.fixture(scope="module")
def merged(tiny: Path, tuned: list[Path], tmp_path_factory: pytest.TempPathFactory) -> fw.verbs.merge_folder.Merged:
    """ft-a, ft-b and ft-c; tests may read it and write nothing."""
    return fw.merge(tiny, tuned[:3], tmp_path_factory.mktemp("merged") / "abc", weight=[1.0, 0.5, 0.7])


class TestFolder:
    def test_command(self, command: Command, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        ended = command("merge", tiny, *tuned[:3], "--out", tmp_path / "out", "--weight", "1,0.5,0.7")
        assert ended.status == 0, ended.err
        assert ended.err.index("cosine of ft-a and ft-b: +0.30") < len(ended.err)
        for line in ("ft-a, ft-b  +0.30", "orthogonal-deltas: 21 of 21 tensors changed", "peak memory", "picture"):
            assert line in ended.out, ended.out

    def test_table_fits_a_terminal(
        self, command: Command, tiny: Path, tuned: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        lines = command("merge", tiny, *tuned[:3], "--out", tmp_path / "out", "--quiet").out.splitlines()
        assert max(len(line) for line in lines if "/" not in line and "fingerprint" not in line) <= 80

    def test_is_an_ordinary_model(self, merged: Any, tiny: Path) -> None:
        module = transformers.AutoModelForCausalLM.from_pretrained(merged.folder)
        assert bool(module(torch.arange(3, 30)[None]).logits.isfinite().all())
        assert transformers.AutoTokenizer.from_pretrained(merged.folder)("a")["input_ids"]
        found = open_folder(merged.folder)
        assert found.fingerprint == merged.facts["fingerprint"]
        assert json.loads((merged.folder / "config.json").read_text()) == open_folder(tiny).config

    def test_verify_accepts_it(self, merged: Any, small: Any, cache: Path) -> None:
        found = fw.verify(merged.folder, merged.folder, settings=small, cache=cache, quality=0.99)
        assert found.verdict == Verdict.PASS
        assert len(fw.verbs.verify.verify_ledger(merged.folder)) == 5

    def test_same_as_the_technique(self, merged: Any, tiny: Path, tuned: list[Path]) -> None:
        fields = {"models": [str(each) for each in tuned[:3]], "weight": [1.0, 0.5, 0.7]}
        technique = fw.core.technique.build("orthogonal-deltas", fields)
        result = technique.apply(open_folder(tiny), fw.core.run.Run())
        assert result.fingerprint == merged.facts["fingerprint"]

    def test_page_works_offline(self, merged: Any) -> None:
        page = merged.page.read_text(encoding="utf-8")
        assert "Cosines of the changes, all weights" in page
        assert "http-equiv" not in page
        assert len(page) < 50_000
        assert page.count("<table>") == 2
        for shown in ("+0.30", "mlp.down_proj", "ft-a and ft-b", "subtraction is not enough"):
            assert shown in page or "ft-b and ft-a" in page

    def test_recipe_step(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        """As a step of a recipe, before a quantizer; found again as long as the fine-tunes are the same."""
        recipe = Recipe.from_yaml(
            f"steps:\n- orthogonal-deltas: {{models: [{tuned[0]}, {tuned[1]}]}}\n- rtn: {{format: int8-g64}}\n"
        )
        base, run = open_folder(tiny), Run()
        first, second = apply_recipe(recipe, base, run, tmp_path / "steps")
        expected = fw.merge(tiny, tuned[:2], tmp_path / "out")
        assert first.model.fingerprint == expected.facts["fingerprint"]
        assert set(first.content["outside"]) == {"models 0", "models 1"}
        assert "ft-a, ft-b" in first.content["notes"]["cosines"]
        assert second.content["before"] == first.content["after"]

    def test_interrupted_leaves_nothing(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        class Interrupting(Progress):
            def track(self, label: str, total: int) -> Any:
                if label == "writing":
                    raise KeyboardInterrupt
                return super().track(label, total)

        with pytest.raises(KeyboardInterrupt):
            fw.merge(tiny, tuned[:2], tmp_path / "out", progress=Interrupting())
        assert list(tmp_path.iterdir()) == []

    def test_beyond_the_number_type(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        with pytest.raises(fw.core.errors.MergeError, match="is beyond what F16 can hold; use --dtype bfloat16"):
            fw.merge(tiny, tuned[:1], tmp_path / "out", weight=1e9, fields={"dtype": "float16"})
        assert list(tmp_path.iterdir()) == []

    def test_a_merged_model_as_a_fine_tune(self, merged: Any, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        """It knows its base: of the same one it is a fine-tune like others, of another one it is none."""
        again = fw.merge(tiny, [merged.folder], tmp_path / "again")
        assert again.facts["fingerprint"] == merged.facts["fingerprint"]
        with pytest.raises(fw.core.errors.MergeError, match="was merged from another base: its fingerprint is"):
            fw.merge(tuned[3], [merged.folder], tmp_path / "other")


class TestLedger:
    def test_lines(self, merged: Any, tiny: Path, tuned: list[Path]) -> None:
        receipts = read_ledger(merged.folder / "ledger.jsonl")
        assert [each.content["step"] for each in receipts] == ["merge", "delta", "delta", "delta", "merged"]
        assert receipts[0].content["base"] == open_folder(tiny).fingerprint
        assert [each.content["digest"] for each in receipts[1:4]] == [
            open_folder(each).fingerprint for each in tuned[:3]
        ]
        assert [each.content["fields"]["weight"] for each in receipts[1:4]] == [1.0, 0.5, 0.7]
        gram = torch.tensor(receipts[4].content["gram"])
        assert torch.equal(gram, gram.T)
        assert receipts[1].content["norm"] == pytest.approx(float(gram[0, 0]) ** 0.5)
        assert receipts[4].content["weights"] == [1.0, 0.5, 0.7]

    def test_says_nothing_of_places_in_what_is_hashed(self, merged: Any, tmp_path: Path) -> None:
        for receipt in read_ledger(merged.folder / "ledger.jsonl"):
            assert "/" not in json.dumps(receipt.content)

    def test_equal_inputs_give_an_equal_ledger(
        self, merged: Any, tiny: Path, tuned: list[Path], tmp_path: Path
    ) -> None:
        again = fw.merge(tiny, tuned[:3], tmp_path / "again", weight=[1.0, 0.5, 0.7])
        assert again.facts["receipts"] == merged.facts["receipts"]

    def test_record(self, merged: Any, tuned: list[Path]) -> None:
        record = read_merge(merged.folder)
        assert [each.path for each in record.deltas] == [str(each.resolve()) for each in tuned[:3]]
        assert record.fingerprint == merged.facts["fingerprint"]
        assert record.index("ft-b") == record.index(str(tuned[1].resolve())) == 1
        assert record.index(record.deltas[2].digest[:8]) == 2


class TestOnto:
    def test_adding_later_is_merging_at_once(
        self, command: Command, merged: Any, tiny: Path, tuned: list[Path], tmp_path: Path
    ) -> None:
        ended = command("merge", "--onto", merged.folder, tuned[3], "--weight", "0.3", "--out", tmp_path / "abcd")
        assert ended.status == 0, ended.err
        at_once = fw.merge(tiny, tuned, tmp_path / "at-once", weight=[1.0, 0.5, 0.7, 0.3])
        assert open_folder(tmp_path / "abcd").fingerprint == at_once.facts["fingerprint"]
        later, once = (read_ledger(tmp_path / name / "ledger.jsonl") for name in ("abcd", "at-once"))
        assert [each.digest for each in later[:-1]] == [each.digest for each in once]
        assert later[-1].content["of"] == read_merge(merged.folder).head

    def test_one_after_the_other(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        folder = fw.merge(tiny, tuned[:1], tmp_path / "1", method="ties", fields={"density": 0.5}).folder
        for count, each in enumerate(tuned[1:], start=2):
            folder = fw.merge_onto(folder, [each], tmp_path / str(count), fields={"density": 0.5}).folder
        at_once = fw.merge(tiny, tuned, tmp_path / "at-once", method="ties", fields={"density": 0.5})
        assert open_folder(folder).fingerprint == at_once.facts["fingerprint"]

    def test_fields_of_what_is_added(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        """Those that all earlier ones have in common, unless they are given."""
        one = fw.merge(tiny, tuned[:2], tmp_path / "one", method="ties", fields={"density": 0.5}).folder
        added = fw.merge_onto(one, tuned[2:3], tmp_path / "added")
        at_once = fw.merge(tiny, tuned[:3], tmp_path / "at-once", method="ties", fields={"density": 0.5})
        assert added.facts["fingerprint"] == at_once.facts["fingerprint"]
        two = fw.merge(tiny, tuned[:2], tmp_path / "two", method="ties", fields={"density": [0.5, 0.2]}).folder
        with pytest.raises(fw.core.errors.RecipeError, match=r"density of what is added: is not given, and those of"):
            fw.merge_onto(two, tuned[2:3], tmp_path / "x")
        assert fw.merge_onto(two, tuned[2:3], tmp_path / "three", fields={"density": 0.1}).facts["method"] == "ties"
        with pytest.raises(fw.core.errors.RecipeError, match=r"validation of what is added: cannot be given"):
            fw.merge_onto(one, tuned[2:3], tmp_path / "x", fields={"validation": ["a.txt"]})

    def test_same_name_twice(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        first = fw.merge(tiny, tuned[:1], tmp_path / "1")
        again = fw.merge_onto(first.folder, tuned[:1], tmp_path / "2")
        assert [each["name"] for each in again.facts["deltas"]] == ["ft-a", "ft-a#2"]
        assert again.facts["fingerprint"] == first.facts["fingerprint"]  # a duplicate adds nothing


class TestKeptDeltas:
    @pytest.fixture
    def kept(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> Path:
        """A model, an adapter and a task vector, kept, and then gone."""
        adapter = lora_folder(tmp_path / "sources" / "lora", tiny)
        vector = tmp_path / "sources" / "vector.safetensors"
        save_file({"model.norm.weight": torch.full((64,), 0.01)}, vector)
        sources = [tuned[0], adapter, vector]
        fw.merge(tiny, sources, tmp_path / "kept", keep=True)
        fw.merge(tiny, sources[:2], tmp_path / "expected", keep=True)
        (tmp_path / "sources").rename(tmp_path / "elsewhere")
        return tmp_path / "kept"

    def test_rebuild_needs_the_base_alone(self, kept: Path, tmp_path: Path) -> None:
        found = fw.unmerge(kept, "vector.safetensors", tmp_path / "out")
        assert found.merged.facts["fingerprint"] == open_folder(tmp_path / "expected").fingerprint
        ours, theirs = (read_ledger(tmp_path / name / "ledger.jsonl") for name in ("out", "expected"))
        assert [each.digest for each in ours[:-1]] == [each.digest for each in theirs]
        assert found.residuals[0].after is not None

    def test_other_tools_see_one_model(self, kept: Path) -> None:
        transformers.AutoModelForCausalLM.from_pretrained(kept)
        assert sorted(path.name for path in (kept / "deltas").iterdir()) == [
            "000.safetensors",
            "001",
            "002.safetensors",
        ]


class TestFitted:
    def test_weights(self, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        texts = []
        for name in "ab":
            texts.append(tmp_path / f"{name}.txt")
            texts[-1].write_text(f"The letter {name} is a letter like others.\n" * 400, encoding="utf-8")
        fields = {
            "fit": "gradient",
            "validation": [str(each) for each in texts],
            "fit_steps": 4,
            "rows": 2,
            "length": 32,
        }
        one = fw.merge(tiny, tuned[:2], tmp_path / "one", fields=fields)
        fitted = one.facts["notes"]["fitted"]
        assert fitted["to"] < fitted["from"]
        assert [each["weight"] for each in one.facts["deltas"]] == pytest.approx(fitted["weights"], abs=1e-8)
        again = fw.merge(tiny, tuned[:2], tmp_path / "again", fields=fields)
        assert again.facts["receipts"] == one.facts["receipts"]
        assert "/" not in json.dumps(read_ledger(one.folder / "ledger.jsonl")[1].content)
        alone = fw.merge(tiny, tuned[:1], tmp_path / "alone", fields={**fields, "validation": [str(texts[0])]})
        without = fw.unmerge(one.folder, "ft-b", tmp_path / "without")
        assert without.merged.facts["fingerprint"] == alone.facts["fingerprint"]  # fitted again, without ft-b
        texts[0].write_text("Something else.", encoding="utf-8")
        with pytest.raises(fw.core.errors.MergeError, match=r"validation text of ft-a: is not at .* or was changed"):
            fw.unmerge(one.folder, "ft-b", tmp_path / "changed")
