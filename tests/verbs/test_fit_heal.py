"""fit --heal: both measured at the same bytes on the same tokens, the better one exported, nothing else changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import featherweight as fw
from featherweight.core.errors import ResumeError
from featherweight.core.recipe import Recipe
from featherweight.techniques.adapt.heal import Heal
from featherweight.verbs.fit import FitResult

MINUTES = 0.03


@pytest.fixture(scope="module")
def healed(trained: Path, small: fw.Settings, cache: Path, fitted: FitResult, tmp_path_factory: Any) -> FitResult:
    """The fit of `fitted`, with its measurements, and healing."""
    out = tmp_path_factory.mktemp("healed") / "run"
    return fw.fit(trained, fw.Budget(memory=0.6), out, settings=small, heal=MINUTES, reuse=fitted.folder, cache=cache)


def techniques(recipe: Any) -> list[str]:
    return [next(iter(step)) if isinstance(step, dict) else step for step in recipe["steps"]]


class TestHealed:
    def test_equal_bytes_equal_tokens(self, healed: FitResult) -> None:
        healing = healed.facts["healing"]
        plain, better = healing["plain"], healing["healed"]
        assert plain["memory"] == better["memory"]
        assert plain["quality"]["tokens"] == better["quality"]["tokens"]
        assert healing["held-out"]["plain"]["tokens"] == healing["held-out"]["healed"]["tokens"]
        low, high = healing["interval"]
        assert low <= healing["difference"] <= high
        assert healing["difference"] == pytest.approx(better["quality"]["kl"] - plain["quality"]["kl"], abs=1e-6)
        assert healing["found"]["after"] <= healing["found"]["before"]

    def test_both_are_trials_and_the_better_one_is_exported(self, healed: FitResult) -> None:
        healing = healed.facts["healing"]
        names = [trial["name"] for trial in healed.facts["trials"]]
        assert names[-1] == healing["healed"]["name"]
        assert healing["plain"]["name"] in names
        best = max((healing[name] for name in ("plain", "healed")), key=lambda t: t["quality"]["ratio_interval"][0])
        assert healed.facts["chosen"]["name"] == best["name"]

    def test_only_the_heal_step_is_more(self, healed: FitResult) -> None:
        plain, better = (healed.facts["healing"][name]["recipe"] for name in ("plain", "healed"))
        assert techniques(better) == [*techniques(plain), "heal"]
        assert better["steps"][:-1] == plain["steps"]
        assert better["steps"][-1]["heal"].get("steps", Heal().steps) >= 1  # a recipe leaves out what is the default

    def test_the_recipe_makes_the_file_again(
        self, healed: FitResult, trained: Path, small: fw.Settings, cache: Path, tmp_path: Path
    ) -> None:
        again = fw.apply(
            healed.folder / "final" / "recipe.yaml", trained, tmp_path / "again", settings=small, cache=cache
        )
        assert again.facts["chosen"]["hashed"]["sha256"] == healed.facts["chosen"]["hashed"]["sha256"]

    def test_resumed_it_ends_as_it_did(
        self, healed: FitResult, trained: Path, small: fw.Settings, cache: Path, fitted: FitResult, tmp_path: Path
    ) -> None:
        """Also when the healed weights are gone: the number of steps is not timed again."""
        run = Path(shutil.copytree(healed.folder, tmp_path / "run"))
        (run / "result.json").unlink()
        for folder in run.glob("steps/heal-*"):
            shutil.rmtree(folder)
        again = fw.fit(
            trained, fw.Budget(memory=0.6), run, settings=small, heal=MINUTES, reuse=fitted.folder, resume=True,
            cache=cache,
        )  # fmt: skip
        assert again.facts["chosen"]["hashed"] == healed.facts["chosen"]["hashed"]
        assert again.facts["receipts"]["head"] == healed.facts["receipts"]["head"]
        assert again.facts["healing"] == healed.facts["healing"]

    def test_not_resumed_with_another_time(
        self, healed: FitResult, trained: Path, small: fw.Settings, cache: Path
    ) -> None:
        with pytest.raises(ResumeError, match=r"was started with heal = 0\.03, and now it is null"):
            fw.fit(trained, fw.Budget(memory=0.6), healed.folder, settings=small, resume=True, cache=cache)

    def test_the_report_shows_both(self, healed: FitResult, tmp_path: Path) -> None:
        shutil.copy(healed.folder / "result.json", tmp_path)
        page = fw.report(tmp_path).read_text()
        assert '<section id="healing">' in page
        assert "held-back" in page


def test_without_it_nothing_is_said(fitted: FitResult, tmp_path: Path) -> None:
    assert "healing" not in fitted.facts
    assert "heal" not in json.loads((fitted.folder / "run.json").read_text())
    shutil.copy(fitted.folder / "result.json", tmp_path)
    assert "healing" not in fw.report(tmp_path).read_text()


def test_no_minutes_are_the_same_as_none(
    trained: Path, small: fw.Settings, cache: Path, fitted: FitResult, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(fitted.folder, tmp_path / "run"))
    again = fw.fit(trained, fw.Budget(memory=0.6), run, settings=small, heal=0, resume=True, cache=cache)
    assert again.facts["chosen"]["hashed"] == fitted.facts["chosen"]["hashed"]
    assert again.facts["receipts"] == fitted.facts["receipts"]
    assert set(again.facts) == set(fitted.facts)


class TestCommand:
    def test_the_table_shows_both(
        self, command: Callable[..., Any], trained: Path, fitted: FitResult, tmp_path: Path
    ) -> None:
        ended = command(
            "fit", trained, "--memory", "60%", "--out", tmp_path / "run", "--reuse", fitted.folder, "--heal", MINUTES,
            "--quiet",
        )  # fmt: skip
        assert ended.status == 0, ended.err
        for words in ("healing, on held-out text", "without", "with, ", "exported"):
            assert words in ended.out

    @pytest.mark.parametrize("minutes", ["-1", "nan", "inf"])
    def test_a_time_that_is_none(self, command: Callable[..., Any], tiny: Path, minutes: str, tmp_path: Path) -> None:
        ended = command("fit", tiny, "--memory", "60%", "--out", tmp_path / "run", "--heal", minutes)
        assert ended.status == 2
        assert f"--heal {minutes}: is no number of minutes; give minutes such as 5, or leave it out." in ended.err
        assert not (tmp_path / "run").exists()


def test_apply_takes_a_recipe_that_heals(trained: Path, small: fw.Settings, cache: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_yaml(
        "steps: [{width: {ffn: 0.5}}, {heal: {steps: 6}}, {rtn: {format: Q5_0, embedding: Q8_0}}]"
    )
    result = fw.apply(recipe, trained, tmp_path / "run", settings=small, cache=cache)
    assert techniques(yaml.safe_load((tmp_path / "run" / "final" / "recipe.yaml").read_text())) == [
        "width", "heal", "rtn",
    ]  # fmt: skip
    receipts = [json.loads(line)["content"] for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    found = receipts[1]["notes"]
    assert found["after"] <= found["before"]
    assert result.facts["chosen"]["quality"]["kl"] > 0


def test_apply_refuses_and_leaves_nothing(command: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: [{heal: {steps: 3, blocks: [0]}}]")
    ended = command("apply", path, trained, "--out", tmp_path / "run", "--quiet")
    assert ended.status == 2
    assert "heal.blocks = [0]: the model has 2 blocks" in ended.err
    assert not (tmp_path / "run").exists()
