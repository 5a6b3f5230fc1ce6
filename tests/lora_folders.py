"""Trained-looking LoRA adapters on tiny models, as folders that PEFT wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch

from featherweight.core.adapter_facts import AdapterFacts, write_facts
from featherweight.core.source import open_folder

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(3, 35).reshape(2, 16)


def adapted(base: Path, seed: int = 0, size: float = 0.1, **fields: Any) -> Any:
    """A PEFT model whose factors are all random with a falling spectrum; the second block's change is small."""
    settings = {"r": 4, "target_modules": LINEARS, "task_type": "CAUSAL_LM", **fields}
    model = peft.get_peft_model(open_folder(base).module(), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "modules_to_save" in name:
                each.mul_(1.5)
            if "lora_" not in name:
                continue
            each.copy_(size * torch.randn(each.shape, generator=generator))
            if "lora_A" in name:
                each.mul_(torch.logspace(0, -1, len(each))[:, None])
            elif "layers.1.mlp" in name:
                each.mul_(0.01)
    return model.eval()


def lora_folder(folder: Path, base: Path, ours: bool = True, **fields: Any) -> Path:
    """A saved adapter; one of ours knows its base by fingerprint, one from elsewhere does not."""
    adapted(base, **fields).save_pretrained(folder)
    if ours:
        write_facts(folder, AdapterFacts(open_folder(base).fingerprint, str(base), version="0.1.0"))
    return folder


def logits(base: Path, folder: Path | None = None) -> torch.Tensor:
    """What stock PEFT computes with an adapter, or the base alone."""
    module = open_folder(base).module()
    model = module if folder is None else peft.PeftModel.from_pretrained(module, str(folder)).eval()
    with torch.no_grad():
        return model(IDS).logits
