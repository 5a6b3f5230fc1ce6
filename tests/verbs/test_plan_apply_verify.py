"""plan shows and writes nothing; apply runs a recipe exactly; verify says yes, no, or that it cannot tell."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import yaml

import featherweight as fw
from featherweight.core.receipt import read_ledger
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.measure.quality import Quality
from featherweight.testing.tiny import tiny_model
from featherweight.verbs.apply import ApplyResult, runtime_of
from featherweight.verbs.fit import FitResult
from featherweight.verbs.verify import DEFAULT_FLOOR, floor_of
from featherweight.verify.gate import Verdict, overall, quality_check, tokenizer_check

Command = Callable[..., Any]


class TestPlan:
    def test_candidates_are_shown_and_nothing_is_written(
        self, command: Command, unchanged: Any, trained: Path, fitted: FitResult, tmp_path: Path, monkeypatch: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with unchanged(tmp_path), unchanged(fitted.folder):
            ended = command("plan", trained, "--memory", "60%", "--quality", "50%", "--reuse", fitted.folder, "--quiet")
        assert ended.status == 0, ended.err
        for word in ("nothing cut, gptq", "blocks fewer", "measure it", "expected frontier", "at least 50.0%"):
            assert word in ended.out

    def test_candidates_fit_and_the_likeliest_comes_first(
        self, trained: Path, fitted: FitResult, small: fw.Settings, cache: Path
    ) -> None:
        outlook = fw.plan(trained, fw.Budget(memory=0.6), settings=small, reuse=fitted.folder, cache=cache)
        limit = int(0.6 * outlook.study.parent_bytes)
        expected = [candidate.kl for candidate in outlook.candidates]
        assert expected == sorted(expected)
        assert all(candidate.memory <= limit for candidate in outlook.candidates)
        assert outlook.would_run(outlook.candidates[0])
        assert outlook.study.run.store.made == 0  # all of it was known from the run
        uncut = [each for each in outlook.curve if not each.cut.steps()]
        assert [each.memory for each in outlook.curve] == sorted(each.memory for each in outlook.curve)
        assert all(later.kl <= earlier.kl + 1e-9 for earlier, later in itertools.pairwise(uncut))


RECIPE = """\
steps:
- depth: {blocks: [1]}
- rtn: {format: Q5_0, embedding: Q8_0}
"""


class TestApply:
    @pytest.fixture(scope="class")
    def result(self, trained: Path, small: fw.Settings, cache: Path, tmp_path_factory: Any) -> ApplyResult:
        folder = tmp_path_factory.mktemp("apply")
        (folder / "recipe.yaml").write_text(RECIPE)
        return fw.apply(folder / "recipe.yaml", trained, folder / "run", settings=small, cache=cache)

    def test_exactly_the_recipe(self, result: ApplyResult, cache: Path) -> None:
        assert yaml.safe_load((result.folder / "final" / "recipe.yaml").read_text()) == yaml.safe_load(RECIPE)
        model = fw.open_model(result.folder / "final" / "model.gguf", cache)
        assert model.architecture.blocks == 1
        kinds = {name: model.entries[name].format for name in model.architecture.quantizable()}
        assert {kinds.pop("model.embed_tokens.weight"), kinds.pop("lm_head.weight")} == {"Q8_0"}
        assert set(kinds.values()) == {"Q5_0"}

    def test_a_receipt_a_step(self, result: ApplyResult, trained: Path) -> None:
        receipts = read_ledger(result.folder / "ledger.jsonl")
        depth, rtn, export = (receipt.content for receipt in receipts)
        assert (depth["technique"], rtn["technique"], export["step"]) == ("depth", "rtn", "export")
        assert depth["before"] == open_folder(trained).fingerprint
        assert depth["after"] == rtn["before"]
        assert depth["fields"]["blocks"] == [1]
        assert rtn["quality"]["before"] == depth["quality"]["after"]
        assert depth["quality"]["before"]["kl"] == 0
        assert export["bytes"] == (result.folder / "final" / "model.gguf").stat().st_size
        assert result.facts["receipts"] == {"count": 3, "head": receipts[-1].digest}

    @pytest.mark.parametrize(("kind", "format"), [("int4-g64", "hf"), ("Q4_0", "gguf"), ("keep", "hf")])
    def test_the_format_that_can_hold_it(self, kind: str, format: str, trained: Path) -> None:
        assert runtime_of(build("rtn", {"format": kind}).apply(open_folder(trained), Run())) == format

    def test_resume_repeats_no_step(
        self, result: ApplyResult, trained: Path, small: fw.Settings, cache: Path, tmp_path: Path
    ) -> None:
        run = Path(shutil.copytree(result.folder, tmp_path / "run"))
        before = {path: path.stat().st_mtime_ns for path in run.glob("steps/*/step.json")}
        (run / "result.json").unlink()
        again = fw.apply(fw.Recipe.from_yaml(RECIPE), trained, run, settings=small, resume=True, cache=cache)
        assert {path: path.stat().st_mtime_ns for path in run.glob("steps/*/step.json")} == before
        assert again.facts["receipts"] == result.facts["receipts"]


@pytest.fixture(scope="module")
def roundings(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained model rounded mildly and ruined."""
    folder, model = tmp_path_factory.mktemp("rounded"), open_folder(trained)
    found = {}
    for name, kind in (("mild", "int8-g32"), ("ruined", "int2-channel")):
        build("rtn", {"format": kind, "embedding": kind}).apply(model, Run()).save(folder / name)
        found[name] = folder / name
    return found


class TestVerify:
    @pytest.mark.parametrize(("child", "status", "word"), [("mild", 0, "pass"), ("ruined", 1, "fail")])
    def test_exit_status(
        self, command: Command, roundings: dict[str, Path], trained: Path, child: str, status: int, word: str
    ) -> None:
        ended = command("verify", trained, roundings[child], "--quality", "90%", "--quiet")
        assert ended.status == status, ended
        assert ended.out.rstrip().endswith(word)
        assert "at least 90.0%" in ended.out

    def test_a_run_is_held_to_its_own_budget(self, command: Command, fitted: FitResult, trained: Path) -> None:
        ended = command("verify", trained, fitted.folder / "final" / "model.gguf", "--quality", "1%", "--quiet")
        assert ended.status == 0
        assert "equal token ids on the test strings" in ended.out

    def test_the_floor_is_the_runs(self, tmp_path: Path) -> None:
        (tmp_path / "run" / "final").mkdir(parents=True)
        assert floor_of(tmp_path / "run" / "final") == DEFAULT_FLOOR
        (tmp_path / "run" / "result.json").write_text(json.dumps({"budget": {"quality": 0.7}}))
        assert floor_of(tmp_path / "run" / "final") == 0.7
        (tmp_path / "run" / "final" / "model.gguf").touch()
        assert floor_of(tmp_path / "run" / "final" / "model.gguf") == 0.7

    def test_another_tokenizer_is_no_child(self, command: Command, trained: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(trained, tmp_path / "other"))
        tokenizer = tokenizers.Tokenizer.from_file(str(other / "tokenizer.json"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.save(str(other / "tokenizer.json"))
        ended = command("verify", trained, other, "--quiet")
        assert ended.status == 1
        assert "token ids differ on the test strings" in ended.out

    def test_too_little_text_to_tell_is_said(self) -> None:
        quality = Quality(0.95, (0.8, 1.1), 0.1, (0.0, 0.2), 0.9, (0.8, 1.0), 10.0, 10.5, 100, 2)
        check = quality_check(quality, 0.9)
        assert check.verdict is Verdict.CANNOT_TELL
        assert "inside the interval of 2 documents" in check.reason
        assert overall([tokenizer_check(True), check]).exit_status == 2
        assert overall([tokenizer_check(False), check]).exit_status == 1


class TestLedger:
    @pytest.fixture
    def run(self, fitted: FitResult, tmp_path: Path) -> Path:
        """The papers of a finished run."""
        for name in ("ledger.jsonl", "result.json"):
            shutil.copy(fitted.folder / name, tmp_path / name)
        return tmp_path

    def test_it_holds(self, command: Command, run: Path, fitted: FitResult) -> None:
        ended = command("verify", "--ledger", run)
        assert ended.status == 0
        assert f"{fitted.facts['receipts']['count']} receipts, the chain holds" in ended.out

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (lambda lines: [lines[0].replace('"seed": 0', '"seed": 1'), *lines[1:]], "line 1: was changed after it"),
            (lambda lines: lines[1:], "line 1: does not follow the line before it"),
            (lambda lines: [lines[0], *lines[2:]], "line 2: does not follow the line before it"),
            (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1: does not follow the line before it"),
            (lambda lines: lines[:-1], "is missing: the run wrote"),
            (lambda lines: [*lines[:-1], lines[-1][:40]], "is not a receipt"),
        ],
        ids=["flip", "first line gone", "line gone", "swap", "last line gone", "last line cut"],
    )
    def test_the_first_bad_line_is_named(
        self, command: Command, run: Path, spoil: Callable[[list[str]], list[str]], says: str
    ) -> None:
        path = run / "ledger.jsonl"
        lines = path.read_text().splitlines()
        changed = spoil(lines)
        assert changed != lines
        path.write_text("\n".join(changed) + "\n")
        ended = command("verify", "--ledger", run)
        assert ended.status == 2
        assert f"{path} line " in ended.err
        assert says in ended.err


def test_models_of_another_shape_are_not_children(command: Command, trained: Path, models_folder: Path) -> None:
    """A random model of the same tokenizer is as bad as can be, and verify says so."""
    ended = command("verify", trained, tiny_model(models_folder), "--quality", "95%", "--quiet")
    assert ended.status == 1
