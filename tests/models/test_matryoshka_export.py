"""A rank exported as plain LoRA: stock PEFT computes what `set_rank` serves."""

from __future__ import annotations

import json
import subprocess
import sys

import peft
import pytest
import torch
from safetensors.torch import load_file

from featherweight.core.adapter_facts import AdapterFacts, read_facts, write_facts
from featherweight.core.errors import AdapterError, OutputError
from featherweight.models.matryoshka_export import export_rank
from nested_adapters import HEAD, adapted, configured, fresh, kinds, logits, near


@kinds
@pytest.mark.parametrize("serve", ["drop_weight", "keep_weight"])
@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
def test_stock_peft_computes_the_same(kind, serve, scaling, tmp_path) -> None:
    model = adapted(kind, serve=serve, scaling=scaling)
    model.save_pretrained(tmp_path / "nested")
    for rank in (1, 3, 4, 8):
        model.set_rank(rank)
        out = export_rank(tmp_path / "nested", rank, tmp_path / f"plain-{rank}")
        plain = peft.PeftModel.from_pretrained(fresh(kind), out)
        assert type(plain.peft_config["default"]) is peft.LoraConfig
        assert near(logits(plain), logits(model), 1e-5)
        assert plain.peft_config["default"].r == rank


def test_keep_weight_at_full_rank_is_the_training_forward(tmp_path) -> None:
    model = adapted("llama", serve="keep_weight", objective="sum_of_outputs")
    model.save_pretrained(tmp_path / "nested")
    plain = peft.PeftModel.from_pretrained(fresh("llama"), export_rank(tmp_path / "nested", 8, tmp_path / "plain"))
    assert near(logits(plain), logits(model.train()), 1e-5)
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == 8


def test_alpha_by_rank_is_the_scale(tmp_path) -> None:
    adapted("llama", scaling="sqrt").save_pretrained(tmp_path / "nested")
    export_rank(tmp_path / "nested", 4, tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == pytest.approx(0.5)
    assert not {"ranks", "scaling", "serve", "objective", "init"} & set(config)


def test_layers_of_other_ranks_and_whole_modules(tmp_path) -> None:
    pattern = {"down_proj": 2, "layers.1.self_attn.q_proj": 16}
    model = adapted("llama", rank_pattern=pattern, modules_to_save=[HEAD["llama"]], serve="keep_weight")
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.add_(0.1)
    model.save_pretrained(tmp_path / "nested")
    for rank in (1, 4, 16):
        model.set_rank(rank)
        out = export_rank(tmp_path / "nested", rank, tmp_path / f"plain-{rank}")
        assert near(logits(peft.PeftModel.from_pretrained(fresh("llama"), out)), logits(model), 1e-5)


def test_stored_in_half_precision(tmp_path) -> None:
    narrow = peft.get_peft_model(
        fresh("llama", torch.bfloat16), configured("llama", serve="keep_weight"), autocast_adapter_dtype=False
    )
    narrow.save_pretrained(tmp_path / "nested")
    out = export_rank(tmp_path / "nested", 4, tmp_path / "plain")
    assert {tensor.dtype for tensor in load_file(out / "adapter_model.safetensors").values()} == {torch.bfloat16}


def test_facts_go_along(tmp_path) -> None:
    adapted("llama").save_pretrained(tmp_path / "nested")
    write_facts(tmp_path / "nested", AdapterFacts("f" * 64, "a model", "matryoshka-lora", "1"))
    facts = read_facts(export_rank(tmp_path / "nested", 2, tmp_path / "plain"))
    assert facts is not None
    assert (facts.base, facts.method) == ("f" * 64, "lora")
    assert facts.receipts[-1]["rank"] == 2


def test_refusals_write_nothing(tmp_path, unchanged) -> None:
    adapted("llama").save_pretrained(tmp_path / "nested")
    plain = peft.get_peft_model(fresh("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    plain.save_pretrained(tmp_path / "plain")
    with unchanged(tmp_path):
        for rank in (0, 9):
            with pytest.raises(AdapterError, match=rf"rank {rank} of .*the adapter has ranks up to 8; give 1 to 8"):
                export_rank(tmp_path / "nested", rank, tmp_path / "out")
        with pytest.raises(AdapterError, match=r"is a LORA adapter, whose first components.*adapter shrink"):
            export_rank(tmp_path / "plain", 1, tmp_path / "out")
        with pytest.raises(AdapterError, match="is no adapter: it has no"):
            export_rank(tmp_path, 1, tmp_path / "out")
        with pytest.raises(OutputError, match="exists already"):
            export_rank(tmp_path / "nested", 2, tmp_path / "plain")


@pytest.mark.slow
def test_a_process_without_us_refuses_the_nested_folder_and_loads_the_exported(tmp_path) -> None:
    adapted("llama").save_pretrained(tmp_path / "nested")
    fresh("llama").save_pretrained(tmp_path / "base")
    export_rank(tmp_path / "nested", 2, tmp_path / "plain")
    code = (
        "import peft, sys, transformers; base = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]);"
        "peft.PeftModel.from_pretrained(base, sys.argv[2]); assert 'featherweight' not in sys.modules"
    )
    for name, fine in (("plain", True), ("nested", False)):
        command = [sys.executable, "-c", code, str(tmp_path / "base"), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == fine
        assert fine or "MATRYOSHKA_LORA" in done.stderr
