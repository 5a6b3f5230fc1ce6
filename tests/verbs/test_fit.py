"""fit on tiny models: what it promises of the exported file, what it says when nothing fits, what it never repeats."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import featherweight as fw
from featherweight.core.architecture import supported
from featherweight.core.progress import Progress
from featherweight.core.receipt import read_ledger
from featherweight.core.source import open_folder, open_model
from featherweight.measure.llama_runtime import serve
from featherweight.testing.tiny import tiny_model
from featherweight.verbs.fit import FitResult, default_folder
from featherweight.verbs.rehearse import rehearse, write_relative

MEASURED = ("sensitivity-", "removal-", "fisher-", "hidden-")


class TestMet:
    def test_the_file_meets_the_budget_to_the_byte(self, fitted: FitResult) -> None:
        limit = int(0.6 * fitted.facts["model"]["bf16_bytes"])
        [file] = (fitted.folder / "final").glob("*.gguf")
        assert fitted.met
        assert file.stat().st_size == fitted.facts["chosen"]["memory"] <= limit == fitted.facts["limits"]["memory"]
        assert fitted.facts["chosen"]["missed"] == []

    def test_the_file_loads_in_llama_cpp(self, fitted: FitResult, trained: Path) -> None:
        with serve(fitted.folder / "final" / "model.gguf", threads=1) as runtime:
            ids = runtime.tokenize("The statement is")
            assert ids == open_folder(trained).tokenizer("The statement is")["input_ids"]
            assert runtime.generate(ids, 4)

    def test_what_lies_in_the_folder(self, fitted: FitResult) -> None:
        assert json.loads((fitted.folder / "result.json").read_text()) == json.loads(json.dumps(fitted.facts))
        final = fitted.folder / "final"
        assert sorted(path.name for path in final.iterdir()) == [
            "README.md",
            "ledger.jsonl",
            "model.gguf",
            "recipe.yaml",
        ]
        assert not list(fitted.folder.rglob(".*"))

    def test_the_recipe_makes_the_file_again(
        self, fitted: FitResult, trained: Path, small: fw.Settings, cache: Path, tmp_path: Path
    ) -> None:
        recipe = fitted.folder / "final" / "recipe.yaml"
        again = fw.apply(recipe, trained, tmp_path / "again", settings=small, cache=cache)
        assert again.facts["chosen"]["hashed"]["sha256"] == fitted.facts["chosen"]["hashed"]["sha256"]

    def test_receipts_lead_from_the_parent_to_the_file(self, fitted: FitResult, trained: Path, cache: Path) -> None:
        receipts = read_ledger(fitted.folder / "ledger.jsonl")
        steps = [receipt.content for receipt in receipts[:-1]]
        assert [step["technique"] for step in steps] == [
            next(iter(step)) if isinstance(step, dict) else step for step in fitted.facts["chosen"]["recipe"]["steps"]
        ]
        assert steps[0]["before"] == open_folder(trained).fingerprint
        assert all(one["after"] == other["before"] for one, other in itertools.pairwise(steps))
        last = receipts[-1].content
        assert last["fingerprint"] == open_model(fitted.folder / "final" / "model.gguf", cache).fingerprint

    def test_intervals_and_data_are_told(self, fitted: FitResult) -> None:
        quality = fitted.facts["chosen"]["quality"]
        low, high = quality["ratio_interval"]
        assert low <= quality["ratio"] <= high
        assert set(fitted.facts["data"]) == {"calibration", "selection", "held-out"}
        assert len({split["digest"] for split in fitted.facts["data"].values()}) == 3


class TestHuggingFace:
    @pytest.fixture(scope="class")
    def result(self, trained: Path, small: fw.Settings, cache: Path, tmp_path_factory: Any) -> FitResult:
        budget = fw.Budget(memory="70%", quality=0.5)
        out = tmp_path_factory.mktemp("hf") / "run"
        return fw.fit(trained, budget, out, format="hf", settings=small, cache=cache)

    def test_bytes_of_the_weights(self, result: FitResult) -> None:
        files = list((result.folder / "final").glob("*.safetensors"))
        assert result.met
        assert sum(file.stat().st_size for file in files) <= int(0.7 * result.facts["model"]["bf16_bytes"])

    def test_it_loads_in_plain_transformers(self, result: FitResult) -> None:
        final = result.folder / "final"
        ids = torch.arange(3, 40)[None]
        module = transformers.AutoModelForCausalLM.from_pretrained(final)
        with torch.inference_mode():
            module(ids)  # compressed-tensors expands weights at the first call
            # What is stored is compared, not how bf16 computes.
            difference = torch.nn.Module.float(module)(ids).logits - open_folder(final).module()(ids).logits
        assert float(difference.abs().max()) < 1e-3


class TestInfeasible:
    def test_it_says_why(self, infeasible: FitResult) -> None:
        result, why = infeasible, infeasible.facts["why"]
        assert not result.met
        assert result.facts["chosen"] is None
        assert not (result.folder / "final").exists()
        assert "memory" in why["binding"]
        assert "every tensor in its smallest format" in why["reachable"]["memory"]
        assert "memory at this quality" in why["reachable"]
        assert json.loads((result.folder / "result.json").read_text())["why"] == why

    def test_the_nearest_points_are_measured_and_say_what_they_miss(self, infeasible: FitResult) -> None:
        nearest = infeasible.facts["why"]["nearest"]
        assert 1 <= len(nearest) <= 3
        assert all(trial["status"] == "measured" and "memory" in trial["misses"] for trial in nearest)

    def test_on_the_command_line(
        self, command: Callable[..., Any], trained: Path, fitted: FitResult, tmp_path: Path
    ) -> None:
        ended = command(
            "fit",
            trained,
            "--memory",
            "2%",
            "--out",
            tmp_path / "run",
            "--trials",
            0,
            "--reuse",
            fitted.folder,
            "--quiet",
        )
        assert ended.status == 1
        assert "Nothing meets this budget" in ended.out
        assert "binding: memory" in ended.out
        assert (tmp_path / "run" / "report.html").is_file()


class TestReuse:
    def test_a_new_budget_measures_no_prior_again(
        self, fitted: FitResult, trained: Path, small: fw.Settings, cache: Path, tmp_path: Path
    ) -> None:
        budget = fw.Budget(memory="70%")
        result = fw.fit(trained, budget, tmp_path / "run", settings=small, reuse=fitted.folder, cache=cache)
        limit = int(0.7 * result.facts["model"]["bf16_bytes"])
        assert result.met
        assert int(0.6 * limit) < (tmp_path / "run" / "final" / "model.gguf").stat().st_size <= limit
        made = [path.name for path in (tmp_path / "run" / "measurements").iterdir()]
        assert any(path.name.startswith(MEASURED) for path in (fitted.folder / "measurements").iterdir())
        assert not [name for name in made if name.startswith(MEASURED)]
        assert result.facts["cost"]["measurements"] < fitted.facts["cost"]["measurements"] / 2

    def test_a_run_of_another_model_is_of_no_use(
        self, command: Callable[..., Any], fitted: FitResult, tiny: Path, tmp_path: Path
    ) -> None:
        ended = command("fit", tiny, "--memory", "70%", "--out", tmp_path / "run", "--reuse", fitted.folder)
        assert ended.status == 2
        assert f"--reuse {fitted.folder}: is a run of another model; give a run of this one" in ended.err
        assert not (tmp_path / "run").exists()


class TestOtherLimits:
    """Time and resident memory are measured where they are limited; on tiny models they say little."""

    def test_generous(self, fitted: FitResult, trained: Path, small: fw.Settings, cache: Path, tmp_path: Path) -> None:
        budget = fw.Budget(memory=0.6, latency="10s", resident="64GB", threads=1, context=64)
        result = fw.fit(trained, budget, tmp_path / "run", settings=small, reuse=fitted.folder, cache=cache)
        chosen = result.facts["chosen"]
        assert result.met
        assert 0 < chosen["latency"]["seconds"] < 10
        assert chosen["memory"] < chosen["resident"] < 64e9
        assert all(trial["latency"] > 0 for trial in result.facts["trials"])
        assert all(point["latency"] > 0 for point in result.facts["curve"])

    def test_out_of_reach(
        self, fitted: FitResult, trained: Path, small: fw.Settings, cache: Path, tmp_path: Path
    ) -> None:
        budget = fw.Budget(memory=0.6, latency="1us", threads=1)
        result = fw.fit(trained, budget, tmp_path / "run", settings=small, reuse=fitted.folder, cache=cache)
        why = result.facts["why"]
        assert not result.met
        assert why["binding"] == ["latency"]
        assert why["reachable"]["latency"].endswith("ms a token (measured)")
        assert all("latency" in trial["misses"] for trial in why["nearest"])

    def test_resident_memory_is_measured_on_the_file(
        self, fitted: FitResult, trained: Path, small: fw.Settings, cache: Path, tmp_path: Path
    ) -> None:
        """It is known only when a file was exported; one that takes more is kept, and called a miss."""
        budget = fw.Budget(resident="1MB", context=64, threads=1)
        result = fw.fit(trained, budget, tmp_path / "run", settings=small, reuse=fitted.folder, cache=cache)
        assert not result.met
        assert result.facts["chosen"]["missed"] == ["resident"]
        assert result.facts["why"]["binding"] == ["resident"]


class TestRehearsal:
    @pytest.fixture
    def results(self) -> list[FitResult]:
        return []

    @pytest.fixture
    def kept(self, results: list[FitResult]) -> Callable[..., None]:
        """The verb, its results kept."""
        return lambda *args, **options: results.append(fw.fit(*args, **options))

    def test_llama(
        self, kept: Callable[..., None], results: list[FitResult], trained: Path, small: fw.Settings
    ) -> None:
        said: list[str] = []
        progress = Progress()
        progress.say = said.append  # type: ignore[method-assign]
        rehearse(kept, open_folder(trained), "gguf", None, small, progress)
        assert results[0].facts["chosen"] is not None, "no file was exported"
        assert said == ["rehearsing on a two-block random model", "the rehearsal went through"]

    @pytest.mark.slow
    @pytest.mark.parametrize("format", ["gguf", "hf"])
    @pytest.mark.parametrize("model_type", supported())
    def test_every_architecture(
        self, kept: Any, results: list[FitResult], model_type: str, format: str, models_folder: Path, small: fw.Settings
    ) -> None:
        """With an embedding that is most of the model: in a folder it stays wide."""
        parent = open_folder(tiny_model(models_folder, model_type, tie_word_embeddings=True, vocab_size=4096))
        rehearse(kept, parent, format, None, small, Progress())
        assert results[0].facts["chosen"] is not None, "no file was exported"

    def test_the_relative_is_of_the_same_kind(self, any_architecture: Path, tmp_path: Path) -> None:
        parent = open_folder(any_architecture)
        relative = open_folder(write_relative(parent, tmp_path / "relative", seed=0))
        assert relative.architecture.class_name == parent.architecture.class_name
        assert relative.architecture.blocks == 2
        assert relative.tokenizer_digest == parent.tokenizer_digest


def test_default_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    budget = fw.Budget(quality="90%")
    assert default_folder("some/model", budget) == Path("runs/model-0.9")
    Path("runs/model-0.9").mkdir(parents=True)
    assert default_folder("some/model", budget) == Path("runs/model-0.9-2")
    shutil.rmtree("runs")
