"""GPart as a technique: conforming, folding, as an adapter by `adapt`, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch

from featherweight.core.errors import AdapterError, RecipeError
from featherweight.core.partition import VERSIONS
from featherweight.core.run import Run
from featherweight.core.source import open_folder, open_model
from featherweight.techniques.adapt.gpart import GPart
from featherweight.testing import check_technique
from featherweight.testing.tiny import tiny_model, tiny_run
from featherweight.train.adapters import fold
from featherweight.verbs.adapt import adapt


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "phi3", "gemma3_text"])
def test_conforms(model_type: str) -> None:
    check_technique(GPart, GPart(steps=2, batch=2, dimension=500, learning_rate=1e-2), model_type)


@pytest.mark.parametrize("backend", VERSIONS)
def test_folded_computes_what_the_adapter_did(tmp_path: Path, backend: str) -> None:
    folder = tiny_model(tmp_path)
    model, run = open_folder(folder), tiny_run(folder)
    gpart = GPart(steps=3, batch=2, dimension=400, learning_rate=0.3, backend=backend, dropout=0.1)
    adapted = gpart.attach(model, run)
    gpart.train(adapted, gpart.rows(model, run), run)
    ids = run.calibration.ids[:2]
    with torch.no_grad():
        on = adapted(input_ids=ids).logits
        folded = fold(model, adapted, run).module()(input_ids=ids).logits
    assert (on - model.module()(input_ids=ids).logits).abs().max() > 1e-3
    assert (folded - on).abs().max() < 1e-4 * on.abs().max().clamp(min=1)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    model, run = open_folder(folder), tiny_run(folder)
    gpart = GPart(steps=30, batch=4, dimension=4000, learning_rate=0.1)
    course = gpart.train(gpart.attach(model, run), gpart.rows(model, run), run)
    assert course.losses[-1] < course.losses[0] - 0.5


def texts() -> str:
    return "\n".join(json.dumps({"text": f"The number after {n} is {n + 1}, says the teacher."}) for n in range(60))


def test_adapt_leaves_a_folder_that_peft_loads(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    data = tmp_path / "texts.jsonl"
    data.write_text(
        "\n".join(json.dumps({"text": f"The number after {n} is {n + 1}, says the teacher."}) for n in range(60))
    )
    result = adapt(folder, data, tmp_path / "run", method="gpart", fields={"steps": 3, "dimension": 500, "length": 32})
    assert result.facts["adapter"]["parameters"] == 500
    assert 2000 < result.facts["adapter"]["bytes"] < 2400
    again = peft.PeftModel.from_pretrained(open_folder(folder).module(), tmp_path / "run")
    assert again.peft_config["default"].peft_type == "GPART"
    assert json.loads((tmp_path / "run" / "featherweight.json").read_text())["method"] == "gpart"


def test_refusals_write_nothing(tmp_path: Path) -> None:
    folder, data = tiny_model(tmp_path), tmp_path / "texts.jsonl"
    data.write_text(texts())
    for fields, sentence in (
        ({"dimension": 10**7}, "dimension 10000000: is not from 1 to"),
        ({"targets": ["qproj"]}, r"target module 'qproj': matches no linear.*did you mean 'q_proj'"),
        ({"backend": "fastfood", "isometric": False}, "means nothing to fastfood"),
    ):
        with pytest.raises((AdapterError, RecipeError), match=sentence):
            adapt(folder, data, tmp_path / "run", method="gpart", fields={"steps": 1, "length": 32, **fields})
        assert not (tmp_path / "run").exists()


@pytest.mark.real
def test_smollm2_starts_as_itself_and_learns() -> None:
    model, attention = open_model("smollm2-135m"), ("q_proj", "k_proj", "v_proj", "o_proj")
    gpart = GPart(targets=attention)
    adapted, base = gpart.attach(model, Run()), model.module()
    ids = torch.arange(100, 132)[None]
    with torch.no_grad():
        assert torch.equal(adapted(input_ids=ids).logits, base(input_ids=ids).logits)
    sizes = [rows * columns for _, rows, columns, _ in adapted.peft_config["default"].layout]
    assert sum(sizes) == 26_542_080
    assert adapted.get_nb_trainable_parameters()[0] == 16_384
    adapted(input_ids=ids, labels=ids).loss.backward()
    assert adapted.base_model.gpart_theta["default"].grad.count_nonzero() == 16_384
