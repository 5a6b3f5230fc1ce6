"""Adapters of nested ranks on tiny random models: two decoders and an encoder-decoder."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers

from featherweight.models.matryoshka_config import MatryoshkaLoraConfig

DECODER = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TARGETS = {"llama": ["q_proj", "down_proj"], "qwen2": ["v_proj", "up_proj"], "t5": ["q", "v", "wo"]}
HEAD = {"llama": "lm_head", "qwen2": "lm_head", "t5": "lm_head"}


def fresh(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """The same random model every time."""
    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=48, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0,
            tie_word_embeddings=False, dropout_rate=0.0,
        )  # fmt: skip
        return transformers.T5ForConditionalGeneration(config).to(dtype).eval()
    config = transformers.AutoConfig.for_model(kind, **DECODER)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


def configured(kind: str, **changes: Any) -> MatryoshkaLoraConfig:
    """An adapter that changes the output from the start."""
    settings = {"r": 8, "target_modules": TARGETS[kind], "init_lora_weights": False, "scaling": "sqrt", **changes}
    return MatryoshkaLoraConfig(task_type="SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM", **settings)


def adapted(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    return peft.get_peft_model(fresh(kind, dtype), configured(kind, **changes)).eval()


def logits(model: Any, rows: int = 3, **more: Any) -> torch.Tensor:
    ids = torch.randint(3, 48, (rows, 7), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, **more}
    if base_of(model).config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :5]
    with torch.no_grad():
        return model(**inputs).logits


def base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def near(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((first - second).abs().max() < tolerance * max(1.0, float(second.abs().max())))


kinds = pytest.mark.parametrize("kind", ["llama", "qwen2", "t5"])
