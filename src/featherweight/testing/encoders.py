"""Tiny random text encoders in their hosts: a CLIP model and a BERT, with tokenizers of whole words, and phrases."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from featherweight.core.lazy import torch, transformers

SIZES, COLOURS = ("small", "large", "tall", "flat"), ("red", "blue", "green", "white", "black")
THINGS, PLACES = ("dog", "cat", "cube", "lamp", "chair", "boat"), ("table", "roof", "road")
WORDS = (*SIZES, *COLOURS, *THINGS, *PLACES, "on", "a")
_LIVELY = 0.15


def phrases() -> list[str]:
    """Several hundred noun phrases of one to six words."""
    short = [*THINGS, *map(" ".join, itertools.product(COLOURS, THINGS))]
    long = [" ".join(each) for each in itertools.product(SIZES, COLOURS, THINGS)]
    placed = [f"{colour} {thing} on a {place}" for colour, thing, place in itertools.product(COLOURS, THINGS, PLACES)]
    return [*short, *long, *placed]


def word_tokenizer(style: str = "clip", more_words: int = 0) -> Any:
    """A tokenizer of whole words.

    Args:
        style: "clip" pads with the end token, which has the largest id; "bert" has a padding token of its own, first.
        more_words: words of the vocabulary that no phrase uses.
    """
    import tokenizers

    plain = ["<unk>", *WORDS, *(f"word{index}" for index in range(more_words))]
    names = [*plain, "<start>", "<end>"] if style == "clip" else ["<pad>", "<start>", "<end>", *plain]
    ids = {name: index for index, name in enumerate(names)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("<start>", ids["<start>"]), ("<end>", ids["<end>"])]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    special = {"unk_token": "<unk>", "pad_token": "<end>" if style == "clip" else "<pad>"}
    special |= (
        {"bos_token": "<start>", "eos_token": "<end>"}
        if style == "clip"
        else {"cls_token": "<start>", "sep_token": "<end>"}
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def tiny_clip(folder: Path, seed: int = 0, dtype: str = "float32", more_words: int = 8, **text: Any) -> Path:
    """Writes a random two-layer CLIP model of 77 positions; its text encoder is `text_model`."""
    tokenizer = word_tokenizer("clip", more_words)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {
        "vocab_size": len(tokenizer), "max_position_embeddings": 77, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = transformers.CLIPConfig(
        text_config={**sizes, **words, **text}, vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    return _written(transformers.CLIPModel, config, tokenizer, folder / f"clip-{seed}-{dtype}", seed, dtype)


def tiny_bert(folder: Path, seed: int = 0, kind: str = "BertModel", dtype: str = "float32") -> Path:
    """Writes a random two-layer BERT: a sentence encoder, or with a head ("BertForSequenceClassification")."""
    tokenizer = word_tokenizer("bert", 8)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=40, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return _written(getattr(transformers, kind), config, tokenizer, folder / f"{kind}-{seed}-{dtype}", seed, dtype)


def _written(cls: Any, config: Any, tokenizer: Any, folder: Path, seed: int, dtype: str) -> Path:
    """Weights so large that a mistake in any of them shows."""
    module = cls(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(_LIVELY * torch.randn(parameter.shape, generator=generator))
    module.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
