"""grid end to end: waves, files of signals, text, a tiny language model; its folder, its receipts, and going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featherweight.core.data import default_documents
from featherweight.core.errors import DataError, OutputError, RecipeError, ResumeError
from featherweight.core.receipt import read_ledger
from featherweight.core.signal_files import Reading
from featherweight.core.source import open_folder
from featherweight.core.waves import waves
from featherweight.train.sequence_cells import Design
from featherweight.verbs.grid import grid
from featherweight.verbs.grid_settings import GridSettings
from featherweight.verbs.grid_text import world_of_text
from featherweight.verbs.grid_worlds import amounts, split_signals
from featherweight.verbs.report import report
from featherweight.verbs.verify import verify_ledger

QUICK = GridSettings(
    ("state-space", "convolution"), ("cpc",), ("32", "100%"), 2, steps=2, batch=16, labels=40, design=Design(16, 1, 900)
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Waves in a .csv file, with a second label and rows without one."""
    found = waves(120, 0, 32)
    rows = [",".join(f"s{index}" for index in range(32)) + ",kind,half"]
    for number, (signal, name) in enumerate(zip(found.values[..., 0].tolist(), found.labels["frequency"], strict=True)):
        kind = "" if number % 6 == 0 else str(int(name) // 2)
        rows.append(",".join(f"{value:.4f}" for value in signal) + f",{kind},{number % 2}")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "waves.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_a_table_with_two_tasks_makes_a_folder_that_says_everything(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = grid(table, settings=QUICK, reading=Reading(("kind", "half")), out=out)
    assert result.tasks == ("kind", "half")
    assert {each.cell.rows for each in result.outcomes} == {0, 32, result.grid.rows[-1]}
    assert result.grid.rows[-1] < 120  # what judges is not learnt from
    facts = json.loads((out / "result.json").read_text())
    assert len(facts["cells"]) == 2 * 1 * 2 * 2 + 4
    assert facts["findings"]["advice"]["steps"]
    assert facts["findings"]["backbones"][0]["rank"]["interval"][0] is not None
    page = (out / "report.html").read_text()
    assert "Share of the variance" in page
    assert "http://" not in page.split("<script>")[0]
    receipts = read_ledger(out / "ledger.jsonl")
    assert [each.content["step"] for each in receipts] == ["grid", *["cell"] * 12, "findings"]
    assert facts["receipts"]["head"] == receipts[-1].digest
    assert len(verify_ledger(out)) == len(receipts)
    (out / "report.html").unlink()
    assert report(out).read_text() == page


def test_a_killed_grid_goes_on_and_comes_to_the_same(table: Path, tmp_path: Path) -> None:
    reading, out = Reading(("kind",)), tmp_path / "run"
    whole = grid(table, settings=QUICK, reading=reading, out=out)
    head = read_ledger(out / "ledger.jsonl")[-1].digest
    (out / "result.json").unlink()
    (out / "ledger.jsonl").unlink()
    cells = sorted((out / "measurements").glob("cell-*.json"))
    for path in cells[::2]:
        path.unlink()
    times = {path: path.stat().st_mtime_ns for path in cells[1::2]}
    again = grid(table, settings=QUICK, reading=reading, out=out, resume=True)
    assert again.to_dict() == whole.to_dict()
    assert read_ledger(out / "ledger.jsonl")[-1].digest == head
    assert {path: path.stat().st_mtime_ns for path in cells[1::2]} == times
    with pytest.raises(OutputError, match="exists already"):
        grid(table, settings=QUICK, reading=reading, out=out)
    with pytest.raises(ResumeError, match="was started with grid"):
        grid(table, settings=replace(QUICK, seeds=3), reading=reading, out=out, resume=True)


def test_what_judges_in_any_task_is_learnt_from_in_none() -> None:
    found = waves(200, 0, 32)
    labels = {"a": found.labels["frequency"], "b": [str(int(each) % 2) for each in found.labels["frequency"]]}
    world = split_signals(replace(found, labels=labels), 0)
    learnt = {each.numpy().tobytes() for each in world.inputs}
    for question in world.questions.values():
        inputs = question.inputs
        for part in ("validation", "test"):
            assert not learnt & {inputs[row].numpy().tobytes() for row in question.parts[part]}
        assert {inputs[row].numpy().tobytes() for row in question.parts["training"]} <= learnt


def test_arrays_a_recording_and_the_control(tmp_path: Path) -> None:
    found = waves(90, 0, 32)
    np.savez(
        tmp_path / "w.npz", x=found.values.numpy(), y=np.array([int(each) % 2 for each in found.labels["frequency"]])
    )
    one = grid(tmp_path / "w.npz", settings=QUICK, reading=Reading(("y",)))
    control = grid(tmp_path / "w.npz", settings=QUICK, reading=Reading(("y",)), control=True)
    assert "shuffled" in control.name
    assert [each.score for each in one.outcomes] != [each.score for each in control.outcomes]
    lines = ["time,volts,beat"] + [
        f"{step},{np.sin(step / (2 + step // 900)):.4f},{step // 900}" for step in range(1800)
    ]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    result = grid(tmp_path / "r.csv", settings=QUICK, reading=Reading(("beat",), ("volts",), 20))
    assert result.grid.rows[-1] == 54  # 60 % of 90 windows


def test_waves_by_default() -> None:
    result = grid(settings=replace(QUICK, rows=("64", "128")))
    assert result.name == "the waves"
    assert result.tasks == ("frequency",)
    assert result.folder is None
    assert result.parameters.keys() == {"state-space", "convolution"}


def test_a_text_without_a_model(tmp_path: Path) -> None:
    prose = default_documents()["prose"][:120]
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(prose), encoding="utf-8")
    world = world_of_text(path, 24)
    assert world.inputs.shape[1] == 24
    assert 0 < int(world.inputs.max()) < world.tokens
    question = world.questions["notes"]
    assert len(question.data.classes) <= 20
    settings = replace(QUICK, objectives=("next-token", "data2vec"), length=24, labels=None)
    result = grid(path, settings=settings)
    assert result.tasks == ("notes",)
    (tmp_path / "few.txt").write_text("a few words\n" * 20, encoding="utf-8")
    with pytest.raises(DataError, match="characters to ask about; give more text"):
        world_of_text(tmp_path / "few.txt", 24)


def test_a_language_model(tmp_path: Path) -> None:
    from featherweight.testing.tiny import tiny_model

    folder = tiny_model(tmp_path, num_hidden_layers=4)
    before = open_folder(folder).fingerprint
    settings = GridSettings(
        ("depth", "low-rank"), ("logit-kl", "cpc"), ("4", "8"), 2, steps=2, length=32, judged=6, memory="80%",
        learning_rate=1e-3,
    )  # fmt: skip
    result = grid(folder, settings=settings, out=tmp_path / "run")
    assert open_folder(folder).fingerprint == before
    assert result.tasks == ("prose", "code")
    assert abs(result.parameters["depth"] / result.parameters["low-rank"] - 1) < 0.01
    assert result.findings.backbones[0].baseline is not None
    again = grid(folder, settings=settings, out=tmp_path / "run", resume=True)
    assert again.to_dict() == result.to_dict()


def test_amounts() -> None:
    assert amounts(("300", "25%"), 1000, 64) == (300, 250)
    assert amounts((), 1600, 64) == (100, 400, 1600)
    assert amounts((), 80, 64) == (64, 80)
    assert amounts((), 10, 64) == (10,)
    for bad in ("2000", "0", "x", "1.5", "120%", "5%%"):
        with pytest.raises(RecipeError, match="is no amount of"):
            amounts((bad,), 1000, 64)


def test_the_command_ends_with_tables_that_fit(command: Callable[..., Any], table: Path, tmp_path: Path) -> None:
    ended = command(
        "grid", table, "--label", "kind", "--backbones", "attention,convolution", "--objectives", "cpc", "--rows",
        "16,32", "--steps", 2, "--batch", 16, "--labels", 40, "--rates", 2, "--set", "cpc.negatives=4",
        "--cost-per-row", "0.01", "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert ended.status == 0, ended
    assert "backbone : log rows" in ended.out
    assert "twice the rows (64)" in ended.out
    assert "Spend on: " in ended.out
    assert max(map(len, (line for line in ended.out.splitlines() if "%" in line or "+" in line))) <= 80
    assert (tmp_path / "run" / "report.html").is_file()
