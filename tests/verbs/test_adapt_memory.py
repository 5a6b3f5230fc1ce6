"""adapt under a memory limit: the same adapter with and without the levers, the plan in the receipt, the refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from featherweight.cli.app import app
from featherweight.core.budget import format_bytes
from featherweight.core.errors import BudgetError
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.techniques.adapt.lora import Lora
from featherweight.techniques.adapt.matryoshka_lora import MatryoshkaLora
from featherweight.testing.tiny import tiny_model
from featherweight.train.fitted import fitted
from featherweight.train.memory import MemoryPlan
from featherweight.train.memory_terms import Levers
from featherweight.verbs import adapt as verb
from featherweight.verbs.adapt import adapt, plan_adapt

FIELDS = {"steps": 3, "rank": 4, "batch": 2, "length": 48}
EVERYTHING = Levers("disk", recompute=True, offload=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"Number {n}?"}, {"role": "assistant", "content": f"It is {n * 7}."}]}
        for n in range(24)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("technique", [Lora, MatryoshkaLora])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_levers_change_nothing_of_what_is_learned(
    tmp_path: Path, data: Path, technique: type[Lora] | type[MatryoshkaLora], dropout: float
) -> None:
    model = open_folder(tiny_model(tmp_path, num_hidden_layers=3))
    nested = {"objective": "sum_of_losses"} if technique is MatryoshkaLora else {}
    method = technique(data=str(data), dropout=dropout, **FIELDS, **nested)  # type: ignore[arg-type]
    found = []
    for levers in (Levers(), Levers(recompute=True), EVERYTHING):
        plan = MemoryPlan(levers, dict.fromkeys(("activations", "logits", "working memory"), 0), None)
        with fitted(method, model, Run(seed=1), plan, tmp_path / "near") as adapted:
            course = method.train(adapted, method.rows(model, Run()), Run(seed=1))
            found.append(
                (course.losses, [each.detach().clone() for each in adapted.parameters() if each.requires_grad])
            )
    for losses, parameters in found[1:]:
        assert losses == pytest.approx(found[0][0], abs=1e-5)
        for one, other in zip(parameters, found[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
    assert list((tmp_path / "near").iterdir()) == []


def test_the_subset_softmax_is_an_option_that_the_whole_vocabulary_switches_off(tmp_path: Path, data: Path) -> None:
    model = open_folder(tiny_model(tmp_path))

    def losses(neighbours: int | None) -> list[float]:
        method = Lora(data=str(data), softmax_neighbours=neighbours, **FIELDS)  # type: ignore[arg-type]
        adapted = method.attach(model, Run(seed=1))
        return method.train(adapted, method.rows(model, Run()), Run(seed=1)).losses

    exact = losses(None)
    assert losses(512) == pytest.approx(exact, abs=1e-5)
    assert losses(2)[0] < exact[0]


def test_a_limit_is_planned_for_and_measured(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_model(tmp_path, num_hidden_layers=3, dtype="bfloat16")
    plain = adapt(base, data, tmp_path / "plain", fields=FIELDS)
    plan = plan_adapt(base, data, fields=FIELDS, memory="8GB")
    smallest = plan.lower[0][0]
    assert smallest.recompute
    # A tiny model's levers are lost in the size of Python itself, so the plan is given.
    monkeypatch.setattr(
        verb, "planned", lambda task, memory, formats: verb.MemoryPlan(EVERYTHING, plan.terms, plan.limit)
    )
    limited = adapt(base, data, tmp_path / "limited", fields=FIELDS, memory="8GB")
    receipt = limited.facts["cost"]["memory_plan"]
    assert receipt["levers"]["base"] == "disk"
    assert receipt["planned"] == sum(receipt["terms"].values())
    assert receipt["measured_peak"] is None or receipt["measured_peak"] > 0
    assert receipt["within_limit"] in (True, None)
    assert limited.facts["losses"] == pytest.approx(plain.facts["losses"], abs=1e-5)
    one, other = (load_file(each.folder / "adapter_model.safetensors") for each in (plain, limited))
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=1e-3, atol=2e-5)
    leftover = [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "tmp"))]
    assert leftover == []


@pytest.mark.slow
def test_the_whole_command_stays_below_the_limit(tmp_path: Path, data: Path) -> None:
    """Measuring what was trained must not take what training saved: a fresh process with the embedded model."""
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "featherweight", "adapt", "smollm2-135m", "--data", str(data), "--memory", "760MB",
        "--set", "steps=2", "--set", "batch=1", "--set", "length=256", "--out", str(run), "--quiet",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    cost = json.loads((run / "result.json").read_text(encoding="utf-8"))["cost"]
    assert cost["memory_plan"]["levers"]["recompute"]
    assert cost["memory_plan"]["measured_peak"] <= 760_000_000
    assert cost["peak_memory"] <= 760_000_000


def test_an_impossible_limit_is_refused_and_nothing_is_written(tmp_path: Path, data: Path) -> None:
    base = tiny_model(tmp_path)
    with pytest.raises(BudgetError, match="before training"):
        adapt(base, data, tmp_path / "out", fields=FIELDS, memory="1MB")
    with pytest.raises(BudgetError, match="no unit"):
        adapt(base, data, tmp_path / "out", fields=FIELDS, memory="3 bags")
    assert not (tmp_path / "out").exists()


def test_the_plan_is_printed_and_nothing_is_written(tmp_path: Path, data: Path) -> None:
    base = tiny_model(tmp_path)
    arguments = ["adapt", str(base), "--data", str(data), "--plan", "--memory", "8GB", "--set", "length=48"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    for words in ("at the peak of a step", "frozen weights", "binding:", f"limit {format_bytes(8 * 10**9)}"):
        assert words in shown.output
    assert "what would lower it" in shown.output
    assert not (tmp_path / "out").exists()
