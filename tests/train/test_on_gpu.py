"""Training on a GPU: small bases, checkpointed blocks and a memory plan compute there what they compute here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from masked_rows import batch_of

from featherweight.core.data import TokenSet
from featherweight.core.formats import get
from featherweight.core.formats.expand import expand, expand_rows, moved
from featherweight.core.memory import forget_peak, peak_memory
from featherweight.core.packing import PackedRows
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.techniques.adapt.gpart import GPart
from featherweight.techniques.adapt.lora import Lora
from featherweight.testing.tiny import tiny_model
from featherweight.train.chunked_head import loss_of
from featherweight.train.fitted import fitted
from featherweight.train.frozen_module import frozen_module
from featherweight.train.memory import MemoryPlan, plan_memory
from featherweight.train.memory_terms import DENSE, DISK, STORED, Levers, Shape
from featherweight.train.spill import Spill
from featherweight.verbs.adapt import adapt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
FORMATS = ("Q4_0", "Q4_1", "Q8_0", "Q5_1", "int4-g32-asym", "int8-channel", "BF16")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [{"prompt": f"Number {n}?", "completion": f" It is {n * 7}."} for n in range(24)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_values_are_read_back_on_the_device(name: str) -> None:
    packed = get(name).fit(torch.randn(96, 64, generator=torch.Generator().manual_seed(0)))
    there = expand(moved(packed, "cuda"))
    assert there.is_cuda
    assert torch.equal(there.cpu(), packed.dequantize())
    rows = torch.tensor([5, 95, 5])
    assert torch.equal(expand_rows(moved(packed, "cuda"), rows.cuda()).cpu(), packed.dequantize()[rows])


@pytest.mark.parametrize("base", [DENSE, STORED, DISK, "Q8_0", "int4-g32"])
def test_a_small_base_computes_the_same_there(tmp_path: Path, base: str) -> None:
    model = open_folder(tiny_model(tmp_path, num_hidden_layers=3, dtype="bfloat16"))
    with Spill(tmp_path / "spill") as spill:
        here = loss_of(frozen_module(model, base, spill), batch_of())[0]
        there = loss_of(frozen_module(model, base, spill, "cuda"), batch_of().to("cuda"))[0]
    assert float(there) == pytest.approx(float(here), rel=1e-4)


@pytest.mark.parametrize("technique", [Lora, GPart])
def test_levers_change_nothing_of_what_is_learned(tmp_path: Path, data: Path, technique: type[Lora]) -> None:
    model = open_folder(tiny_model(tmp_path, num_hidden_layers=3))
    method = technique(data=str(data), steps=3, batch=2, length=48, precision="float32")
    found = []
    for levers in (Levers(), Levers(STORED, recompute=True), Levers(DISK, recompute=True, offload=True)):
        plan = MemoryPlan(levers, dict.fromkeys(("activations", "logits", "working memory"), 0), None)
        with fitted(method, model, Run(seed=1, device="cuda"), plan, tmp_path / "near") as adapted:
            found.append(method.train(adapted, method.rows(model, Run()), Run(seed=1, device="cuda")).losses)
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], abs=1e-3)


def test_the_plan_of_a_gpu_holds(tmp_path: Path) -> None:
    """A model of some size, so that tensors and not the allocator's granularity decide."""
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "vocab_size": 16000}
    model = open_folder(tiny_model(tmp_path, num_hidden_layers=8, dtype="bfloat16", **shape))
    method = Lora(rank=8, steps=2, batch=2, length=256, learning_rate=1e-4)
    ids = torch.randint(16000, (4, 256), generator=torch.Generator().manual_seed(0))
    rows = PackedRows.of_tokens(TokenSet(ids, ("text",) * 4, (0, 1, 2, 3)))
    run = Run(seed=0, device="cuda")
    dtype = method.compute_dtype("cuda")
    plans = [plan_memory(model, method, Shape(2, 256), None, device="cuda", dtype=dtype)]
    least = min(total for _, total in plans[0].lower)
    plans.append(plan_memory(model, method, Shape(2, 256), round(1.1 * least), device="cuda", dtype=dtype))
    assert plans[1].levers != plans[0].levers
    for plan in plans:
        with fitted(method, model, run, plan, tmp_path) as adapted:
            forget_peak("cuda")
            method.train(adapted, rows, run)
            peak = peak_memory("cuda")
        assert 0.5 * plan.total < peak <= 1.05 * plan.total, (plan.levers, plan.terms, peak)


def test_adapt_trains_in_bf16_and_goes_on_after_an_interruption(tmp_path: Path, data: Path) -> None:
    base = tiny_model(tmp_path, num_hidden_layers=3, dtype="bfloat16")
    fields = {"steps": 4, "rank": 4, "batch": 2, "length": 48}
    result = adapt(base, data, tmp_path / "run", fields=fields, device="cuda", memory="2GB")
    assert result.facts["losses"][-1] < result.facts["losses"][0] + 1
    assert result.facts["cost"]["memory_plan"]["within_limit"]
    assert (result.folder / "adapter_model.safetensors").is_file()
