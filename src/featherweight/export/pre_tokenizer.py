"""Finds the name under which llama.cpp splits text as a Hugging Face tokenizer does, by trying.

A file that holds nothing but the vocabulary and one block of zeros is loaded under one name after the other, until
every token id of a varied set of texts agrees. The texts hold no decomposed accents: several tokenizers compose them
first, and llama.cpp does not.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from featherweight.core.errors import CheckpointError, FormatError
from featherweight.core.gguf_file import add_fields
from featherweight.core.gguf_metadata import Field, text_field
from featherweight.core.lazy import gguf, np
from featherweight.measure.llama_runtime import LlamaRuntime, serve

_ADDED = 24  # added tokens that are tried; some tokenizers have thousands of unused ones


@functools.cache
def _tables() -> dict[str, list[str]]:
    """Varied texts, and the names of llama.cpp's pre-tokenizers, the commonest first.

    A name that the installed llama.cpp does not know fails to load and is passed over.
    """
    text = resources.files("featherweight.export").joinpath("tokenizer_texts.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def texts_for(tokenizer: Any) -> list[str]:
    """The varied texts, and texts that hold the tokenizer's special tokens and its longer ordinary ones."""
    added = [token for token in tokenizer.added_tokens_encoder if token.strip()][:_ADDED]
    special = list(dict.fromkeys((*tokenizer.all_special_tokens, *added)))
    ids = range(0, len(tokenizer), max(len(tokenizer) // 400, 1))
    words = [tokenizer.decode([index]) for index in ids]
    plain = [word for word in words if word.isprintable() and word not in special and "\ufffd" not in word]
    mixed = [f"{token}user\nHi 12{token}\n{token}" for token in special]
    return [*_tables()["texts"], *mixed, "".join(special), "".join(plain), " ".join(plain)]


def first_difference(runtime: LlamaRuntime, tokenizer: Any) -> str | None:
    """The first text on which llama.cpp and a Hugging Face tokenizer disagree; None if there is none."""
    for text in texts_for(tokenizer):
        if runtime.tokenize(text) != list(tokenizer(text, add_special_tokens=False)["input_ids"]):
            return text
    return None


def find_pre_tokenizer(fields: Mapping[str, Field], tokenizer: Any, name: str) -> tuple[str, str]:
    """The `tokenizer.ggml.pre` and the `general.name` under which llama.cpp gives the same ids as `tokenizer`.

    The model's name matters because llama.cpp looks for "phi-3" in it before it strips spaces behind special tokens.

    Args:
        fields: the tokenizer's metadata fields; the pre-tokenizer among them is replaced.
        tokenizer: the Hugging Face tokenizer.
        name: of the model; another is returned only if it must be.

    Raises:
        FormatError: there is none.
    """
    differences: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        for called in _names(tokenizer, name):
            for pre in _candidates(fields, tokenizer):
                write_vocabulary_model(path, {**fields, "tokenizer.ggml.pre": text_field(pre)}, called)
                try:
                    with serve(path, context=64, threads=1) as runtime:
                        difference = first_difference(runtime, tokenizer)
                except CheckpointError:
                    continue
                if difference is None:
                    return pre, called
                differences.append(difference)
    raise FormatError(
        f"tokenizer of {name}",
        f"llama.cpp gives other token ids under each of the {len(differences)} ways to split text that were tried, for "
        f"example for {min(differences, key=len, default='')[:60]!r}",
        "export a Hugging Face folder instead",
    )


def _names(tokenizer: Any, name: str) -> tuple[str, ...]:
    """What the model may be called: llama.cpp strips spaces behind special tokens if the name speaks of Phi-3."""
    if any(token.rstrip for token in tokenizer.added_tokens_decoder.values()):
        return (name, "Phi-3")
    return ("Language model",) if "phi" in name.lower() else (name,)


def _candidates(fields: Mapping[str, Field], tokenizer: Any) -> Iterator[str]:
    """Names to try; a look at the pre-tokenizer only decides which come first."""
    if fields["tokenizer.ggml.model"].value != "gpt2":
        yield "default"
        return
    steps = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"])
    marks = {"Digits": "smollm", "p{Lu}": "gpt-4o", "{1,3}": "llama-bpe", "p{N}|": "qwen2"}
    likely = [name for mark, name in marks.items() if mark in steps] or ["gpt-2"]
    yield from dict.fromkeys((*likely, *_tables()["pre_tokenizers"]))


def write_vocabulary_model(path: Path, fields: Mapping[str, Field], name: str) -> None:
    """The smallest file that llama.cpp loads with this vocabulary: one block of 32 channels, all zeros."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-6)
    add_fields(writer, fields)
    size = len(fields["tokenizer.ggml.tokens"].value)
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    zeros = {"token_embd": (size, 18), **{f"blk.0.{matrix}": (32, 18) for matrix in matrices}}
    for tensor, shape in zeros.items():
        writer.add_tensor(f"{tensor}.weight", np.zeros(shape, np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    for norm in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{norm}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
