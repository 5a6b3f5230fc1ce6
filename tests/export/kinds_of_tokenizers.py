"""Small tokenizers of the kinds that the supported architectures come with, made for the tests."""

from __future__ import annotations

from typing import Any

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from featherweight.core.data import default_documents

SIZE = 512
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _texts() -> list[str]:
    documents = default_documents()
    return [*documents["prose"][:20], *documents["code"][:20]]


def byte_level(pattern: str | None = None, bos: bool = False) -> Any:
    """Byte-level BPE, split by a pattern (None = GPT-2's own), perhaps with a token before every text."""
    backend = tokenizers.Tokenizer(models.BPE())
    steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(_texts(), trainer)
    backend.add_special_tokens([AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True)])
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))]
        )
    return _wrapped(backend, bos_token="<|begin|>", eos_token="<|end|>")


def sentencepiece_like(prefix_space: bool = True) -> Any:
    """BPE over characters with byte fallback, as converted from SentencePiece: every split of a token is a merge."""
    pieces = _pieces()
    special = ["<unk>", "<s>", "</s>"]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces][:SIZE]
    vocabulary = {name: index for index, name in enumerate(names)}
    merges = [
        (piece[:at], piece[at:])
        for piece in names[len(special) + 256 :]
        for at in range(len(piece) - 1, 0, -1)
        if piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix_space else replace
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _pieces() -> list[str]:
    """Characters, then what training merged, in that order."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(_texts(), trainers.BpeTrainer(vocab_size=SIZE, show_progress=False))
    known = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    return [name for name, _ in known]


def over_characters() -> Any:
    """BPE over characters without byte fallback: nothing that llama.cpp has."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator(_texts(), trainer)
    return _wrapped(backend, unk_token="<unk>")


def of_single_characters() -> Any:
    """Byte-level BPE that is kept from using its merges, as no known tokenizer is."""
    tokenizer = byte_level()
    single = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [single, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer


def _wrapped(backend: Any, **special: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
