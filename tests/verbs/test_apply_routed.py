"""A recipe with routed masks from the command line: exported, served by tag, refused where nothing can hold it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import featherweight as fw
from featherweight.core.receipt import read_ledger
from featherweight.core.source import open_folder
from featherweight.models.routed_checkpoint import fold, router_of
from featherweight.verbs.apply import ApplyResult

Command = Callable[..., Any]
RECIPE = "steps:\n- routed-lottery: {steps: 2, rounds: 2}\n"
FOLDED = "steps:\n- routed-lottery: {steps: 2, rounds: 2, fold: code}\n- rtn: {format: Q4_0}\n"


@pytest.fixture(scope="module")
def result(trained: Path, small: fw.Settings, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> ApplyResult:
    return fw.apply(
        fw.Recipe.from_yaml(RECIPE), trained, tmp_path_factory.mktemp("apply") / "run", settings=small, cache=cache
    )


def test_the_folder_holds_a_mask_for_each_domain_of_the_text(result: ApplyResult) -> None:
    model = open_folder(result.folder / "final")
    assert router_of(model).domains == ("prose", "code", "chat")
    module = AutoModelForCausalLM.from_pretrained(result.folder / "final", dtype=torch.float32)
    tokens = torch.arange(3, 23).reshape(2, 10)
    with torch.inference_mode(), module.route(["chat", "code"]):
        found = module(tokens).logits
    for row, domain in enumerate(["chat", "code"]):
        expected = fold(model, domain).module()(tokens).logits[row]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)


def test_its_receipt_has_the_overlap_of_every_round_and_honest_bytes(result: ApplyResult, trained: Path) -> None:
    receipt = read_ledger(result.folder / "ledger.jsonl")[0].content
    rounds = receipt["notes"]["overlap"]
    assert [round(1 - each["density"], 2) for each in rounds] == [0.25, 0.5]
    assert all(0 < each["independent"] < each["jaccard"] < 1 for each in rounds)
    before, after = receipt["bytes"]
    masked = sum(
        torch.Size(each.shape).numel() for name, each in open_folder(trained).entries.items() if ".mlp." in name
    )
    assert after == before + 3 * masked // 8
    facts = json.loads((result.folder / "result.json").read_text())
    file = result.folder / "final" / "model.safetensors"
    assert facts["chosen"]["memory"] == file.stat().st_size


def test_verify_takes_the_folder(command: Command, result: ApplyResult, trained: Path) -> None:
    ended = command("verify", trained, result.folder / "final", "--quality", "1%", "--quiet")
    assert ended.status == 0, ended


def test_folded_and_rounded_it_is_a_gguf_file(trained: Path, small: fw.Settings, cache: Path, tmp_path: Path) -> None:
    done = fw.apply(fw.Recipe.from_yaml(FOLDED), trained, tmp_path / "run", settings=small, cache=cache)
    assert (done.folder / "final" / "model.gguf").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("apply", "RECIPE", "TRAINED", "--out", "OUT", "--format", "gguf"),
            "routed-lottery: makes a model that --format gguf cannot hold",
        ),
        (("fit", "ROUTED", "--memory", "60%", "--out", "OUT"), "masks by domain; fold it to one domain first"),
    ],
)
def test_what_is_refused(
    command: Command, unchanged: Any, result: ApplyResult, trained: Path, tmp_path: Path, arguments: Any, message: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    names = {
        "RECIPE": tmp_path / "recipe.yaml",
        "TRAINED": trained,
        "OUT": tmp_path / "out",
        "ROUTED": result.folder / "final",
    }
    with unchanged(tmp_path):
        ended = command(*(names.get(each, each) for each in arguments), "--quiet")
    assert ended.status == 2, ended
    assert message in " ".join(ended.err.split())
