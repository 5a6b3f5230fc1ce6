"""adapt: what it writes is what stock PEFT loads, what it measures is so, and it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import featherweight as fw
from featherweight.core.adapter_facts import read_facts, require_base
from featherweight.core.adapter_folder import read_adapter
from featherweight.core.errors import AdapterError
from featherweight.core.progress import Progress
from featherweight.core.receipt import read_ledger
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model
from featherweight.verbs.adapt import AdaptResult
from featherweight.verbs.report import report

FIELDS: dict[str, Any] = {"rank": 4, "steps": 6, "batch": 4, "length": 64, "learning_rate": 1e-2}


def chats(path: Path, count: int = 40) -> Path:
    """Chats whose answers are easy to learn."""
    colours = ("red", "green", "blue", "black")
    turns = ((f"What is {n}?", f"It is {colours[n % 4]}.") for n in range(count))
    lines = [[{"role": "user", "content": one}, {"role": "assistant", "content": other}] for one, other in turns]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chats(tmp_path_factory.mktemp("data") / "chats.jsonl")


@pytest.fixture(scope="module")
def run(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> AdaptResult:
    return fw.adapt(tiny, data, tmp_path_factory.mktemp("runs") / "run", fields=FIELDS)


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(input_ids=torch.arange(3, 35)[None]).logits


def test_stock_peft_loads_it_and_it_changes_the_base(tiny: Path, run: AdaptResult) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    before = logits(base)
    adapted = peft.PeftModel.from_pretrained(base, str(run.folder))
    after = logits(adapted)
    assert (after - before).abs().max() > 1e-3
    folded = logits(adapted.merge_and_unload())
    torch.testing.assert_close(folded, after, rtol=1e-5, atol=1e-5 * float(after.abs().max()))
    assert read_adapter(run.folder).parameters == run.facts["adapter"]["parameters"]


def test_what_it_brings_and_what_it_costs(run: AdaptResult) -> None:
    held, kept = run.facts["held_out"], run.facts["forgetting"]["all"]
    assert held["after"] < held["before"]
    assert held["change_interval"][1] < 0
    assert held["examples"] == 4
    assert kept["kl"] > 0
    assert kept["kl_interval"][0] <= kept["kl"] <= kept["kl_interval"][1]
    assert [step for step, _ in held["curve"]] == [0, 2, 3, 4, 6]
    assert len(run.facts["losses"]) == 6


def test_facts_and_receipt_name_the_base(tiny: Path, run: AdaptResult, tmp_path: Path) -> None:
    base = open_folder(tiny)
    [receipt] = read_ledger(run.folder / "ledger.jsonl")
    assert receipt.content["before"] == base.fingerprint
    assert receipt.content["losses"] == run.facts["losses"]
    facts = read_facts(run.folder)
    assert (facts.base, facts.method) == (base.fingerprint, "lora")
    assert facts.receipts[0]["hash"] == receipt.digest
    require_base(read_adapter(run.folder), base)
    other = open_folder(tiny_model(tmp_path, seed=3))
    with pytest.raises(AdapterError, match="belongs to another base"):
        require_base(read_adapter(run.folder), other)


def test_the_report_shows_the_loss(run: AdaptResult) -> None:
    page = report(run.folder).read_text(encoding="utf-8")
    assert "held-out samples" in page
    assert "running mean" in page
    assert "http" not in page.split("<body>")[1].split("<script")[0]


def test_no_updates_are_the_base_bit_for_bit(tiny: Path, data: Path, tmp_path: Path) -> None:
    run = fw.adapt(tiny, data, tmp_path / "run", fields={**FIELDS, "steps": 0})
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    before = logits(base)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(base, str(run.folder))), before)
    held, kept = run.facts["held_out"], run.facts["forgetting"]["all"]
    assert (held["change"], kept["kl"], kept["agreement"]) == (0.0, 0.0, 1.0)


class Interrupts(Progress):
    """Presses Ctrl-C after some updates."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        done: list[None] = []

        def advance() -> None:
            done.append(None)
            if label == "lora" and len(done) == 3:
                os.kill(os.getpid(), signal.SIGINT)

        yield advance


def test_interrupted_it_goes_on_to_the_same_adapter(tiny: Path, data: Path, run: AdaptResult, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fw.adapt(tiny, data, out, fields=FIELDS, progress=Interrupts())
    assert not (out / "adapter_config.json").exists()
    again = fw.adapt(tiny, data, out, fields=FIELDS, resume=True)
    assert again.facts["losses"] == run.facts["losses"]
    one, other = (each / "adapter_model.safetensors" for each in (out, run.folder))
    assert one.read_bytes() == other.read_bytes()
    assert len(read_ledger(out / "ledger.jsonl")) == 1


def test_a_finished_run_keeps_no_state_and_resumes_to_its_result(tiny: Path, data: Path, run: AdaptResult) -> None:
    assert not (run.folder / "training.pt").exists()
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    again = fw.adapt(tiny, data, run.folder, fields=FIELDS, resume=True)
    assert again.facts == json.loads(before["result.json"])
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_the_card_says_what_is_known_and_how_to_load_it(tiny: Path, run: AdaptResult) -> None:
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    assert "More Information Needed" not in card
    assert f"{run.facts['held_out']['after']:.4f}" in card
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(run.folder)), names)
    loaded = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(tiny), str(run.folder))
    assert torch.equal(logits(names["model"]), logits(loaded))


def test_without_a_folder_it_goes_to_runs(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [fw.adapt(tiny, data, fields={**FIELDS, "steps": 0}).folder for _ in range(2)]
    assert folders == [Path(f"runs/{data.stem}-lora"), Path(f"runs/{data.stem}-lora-2")]
    assert (folders[1] / "adapter_config.json").is_file()


@pytest.mark.parametrize("method", ["matryoshka-lora"])
def test_any_technique_that_trains_an_adapter(tiny: Path, data: Path, tmp_path: Path, method: str) -> None:
    run = fw.adapt(tiny, data, tmp_path / "run", method=method, fields={**FIELDS, "steps": 2})
    assert read_facts(run.folder).method == method


def test_text_epochs_and_bf16(tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Line {n} is a line. " * 8}) + "\n" for n in range(12)))
    fields = {"rank": 2, "epochs": 2, "batch": 4, "length": 32, "precision": "bfloat16"}
    run = fw.adapt(tiny, text, tmp_path / "run", fields=fields)
    assert len(run.facts["losses"]) == round(2 * run.facts["data"]["training"]["rows"] / 4)


@pytest.mark.real
@pytest.mark.slow
def test_a_real_model_learns_from_twenty_updates(tmp_path: Path) -> None:
    data = chats(tmp_path / "chats.jsonl", 60)
    fields = {"rank": 8, "steps": 20, "batch": 2, "length": 64, "learning_rate": 1e-3}
    run = fw.adapt("smollm2-135m", data, tmp_path / "run", fields=fields, other_rows=4)
    held = run.facts["held_out"]
    assert held["change_interval"][1] < 0
    assert held["after"] < 0.7 * held["before"]
    assert run.facts["forgetting"]["all"]["agreement"] > 0.5
