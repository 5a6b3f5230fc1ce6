"""The probe as a verb, and `adapt --place auto`: one adapter where the first gradient is strongest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featherweight.core.adapter_folder import read_adapter
from featherweight.core.errors import DataError, OutputError, RecipeError
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model
from featherweight.verbs.adapt import plan_adapt
from featherweight.verbs.adapter_place import adapter_place

Command = Callable[..., Any]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"What is {n} + 1?"}, {"role": "assistant", "content": f"{n + 1}."}]}
        for n in range(20)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="module")
def planted(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, written so that one down projection gets nearly all of the gradient's energy."""
    model = open_folder(tiny_model(models_folder))
    up, down = (f"model.layers.1.mlp.{part}.weight" for part in ("up_proj", "down_proj"))
    target = tmp_path_factory.mktemp("planted") / "model"
    model.with_changes({up: model.tensor(up) * 100, down: model.tensor(down) / 100}).save(target)
    return target


PLANTED = "model.layers.1.mlp.down_proj"


class TestPlace:
    def test_planted_module(self, command: Command, planted: Path, chats: Path, tmp_path: Path) -> None:
        ended = command("adapter", "place", planted, "--data", chats, "--samples", 6, "--page", tmp_path / "page.html")
        assert ended.status == 0, ended.err
        assert ended.out.splitlines()[1].split()[0] == PLANTED
        assert PLANTED in (tmp_path / "page.html").read_text(encoding="utf-8")

    def test_same_seed_same_scores(self, planted: Path, chats: Path) -> None:
        first, again, other = (
            adapter_place(planted, chats, score="projected", samples=5, seed=seed).placement.scores
            for seed in (0, 0, 1)
        )
        assert first == again != other

    def test_refused(self, planted: Path, chats: Path) -> None:
        with pytest.raises(RecipeError, match="--score 'best': is unknown"):
            adapter_place(planted, chats, score="best")
        with pytest.raises(DataError, match="--samples 0"):
            adapter_place(planted, chats, samples=0)
        with pytest.raises(OutputError, match="exists already"):
            adapter_place(planted, chats, page=chats)


class TestAdapt:
    def test_one_adapter_on_the_best_module(self, command: Command, planted: Path, chats: Path, tmp_path: Path) -> None:
        ended = command(
            "adapt", planted, "--data", chats, "--out", tmp_path / "run", "--place", "auto", "--rank", 2, "--steps", 2,
            "--length", 64, "--quiet",
        )  # fmt: skip
        assert ended.status == 0, ended.err
        assert f"placed on {PLANTED}" in ended.out
        assert list(read_adapter(tmp_path / "run").factors) == [PLANTED]
        facts = json.loads((tmp_path / "run" / "result.json").read_text())
        assert facts["placement"]["best"] == PLANTED
        assert facts["fields"]["targets"] == [PLANTED]

    def test_the_plan_is_of_that_one_adapter(self, planted: Path, chats: Path) -> None:
        fields = {"rank": 2, "length": 64}
        one = plan_adapt(planted, chats, fields={**fields, "targets": [PLANTED]})
        assert plan_adapt(planted, chats, fields=fields, place="auto").terms["adapter"] == one.terms["adapter"]
        assert one.terms["adapter"] < plan_adapt(planted, chats, fields=fields).terms["adapter"]

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            (["--place", "best"], "place 'best': is unknown; use auto"),
            (["--place", "auto", "--set", "targets=[q_proj]"], "is given together with targets; leave one"),
        ],
    )
    def test_refused(
        self, command: Command, planted: Path, chats: Path, tmp_path: Path, options: list[str], why: str
    ) -> None:
        ended = command("adapt", planted, "--data", chats, "--out", tmp_path / "run", *options)
        assert ended.status == 2
        assert why in ended.err
        assert not (tmp_path / "run").exists()
