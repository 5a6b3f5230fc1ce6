"""Tiny random models of every supported architecture, with a real byte-level tokenizer, made in milliseconds."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from featherweight.core.data import TokenSet, default_documents, tokenize
from featherweight.core.lazy import torch, transformers
from featherweight.core.run import Run
from featherweight.core.source import open_folder

VOCABULARY = 512
_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
_EXTRA: dict[str, dict[str, Any]] = {
    # llama.cpp wants heads x head_dim = hidden of these two.
    "phi3": {"hidden_size": 128, "rope_scaling": None},
    "qwen2": {"hidden_size": 128},
    "gemma3_text": {"sliding_window": 64, "query_pre_attn_scalar": 32, "tie_word_embeddings": True},
}


def tiny_model(folder: Path, model_type: str = "llama", seed: int = 0, dtype: str = "float32", **changes: Any) -> Path:
    """Writes a random two-block model of an architecture and returns its folder.

    Args:
        folder: parent folder; the model goes into a folder in it named after the arguments.
        model_type: one of `featherweight.core.architecture.supported()`.
        seed: of the weights.
        dtype: "float32", "bfloat16" or "float16".
        changes: configuration keys to set, for example `tie_word_embeddings=True`, `num_hidden_layers=4`.
    """
    extra = "-".join(f"{key}={value}" for key, value in sorted(changes.items()))
    extra = hashlib.sha256(extra.encode()).hexdigest()[:12] if len(extra) > 80 else extra
    target = folder / f"{model_type}-{seed}-{dtype}{'-' + extra if extra else ''}"
    if target.is_dir():
        return target
    settings = {**_SHAPE, **_EXTRA.get(model_type, {}), **changes}
    config = transformers.AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(seed)
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _liven(module)
    module.to(getattr(torch, dtype)).save_pretrained(target)
    tiny_tokenizer().save_pretrained(target)
    return target


def _liven(module: Any) -> None:
    """Random norms and biases and larger weights, so that a mistake in any of them changes the logits."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embed" not in name:
                parameter.mul_(4.0)


@functools.cache
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 512 tokens trained on pydoc's topics, with a chat template."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|unk|>", "<|start|>", "<|end|>"],
        initial_alphabet=split.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(default_documents()["prose"][:20], trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<|unk|>", bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    wrapped.chat_template = _TEMPLATE
    return wrapped


def tiny_run(folder: Path, seed: int = 0, rows: int = 8, length: int = 48) -> Run:
    """A run with calibration tokens for a tiny model's folder."""
    return Run(calibration=tiny_tokens(folder, rows, length), seed=seed)


def tiny_tokens(folder: Path, rows: int = 8, length: int = 48, skip: int = 0) -> TokenSet:
    """Rows of pydoc prose in a tiny model's tokens."""
    model = open_folder(folder)
    documents = {"prose": default_documents()["prose"][skip : skip + 40]}
    return tokenize(documents, model.tokenizer, rows, length)


def write_json(path: Path, changes: dict[str, Any]) -> None:
    """Updates keys of a JSON file in place."""
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, **changes}), encoding="utf-8")
