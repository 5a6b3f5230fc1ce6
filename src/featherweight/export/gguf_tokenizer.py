"""A tokenizer as llama.cpp's metadata fields: byte-level BPE and SentencePiece-like BPE.

A model that was read from a GGUF file keeps that file's fields. Otherwise they are made from tokenizer.json. What
tokenizer.json says about splitting text into words has only a name in llama.cpp (`tokenizer.ggml.pre`); that name is
found by trying (`export.pre_tokenizer`), never guessed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import FormatError
from featherweight.core.gguf_companions import UNMERGED, pack_files
from featherweight.core.gguf_file import NAME, tokenizer_fields
from featherweight.core.gguf_metadata import (
    Field,
    count_field,
    flag_field,
    floats_field,
    integers_field,
    read_gguf,
    text_field,
    texts_field,
)
from featherweight.core.lazy import gguf, transformers
from featherweight.core.model import Model
from featherweight.export.pre_tokenizer import find_pre_tokenizer

MODEL, PRE, TOKENS, TYPES, SCORES, MERGES = (
    f"tokenizer.ggml.{name}" for name in ("model", "pre", "tokens", "token_type", "scores", "merges")
)
_SPECIAL = ("bos", "eos", "unknown", "padding")


@dataclass(frozen=True)
class GgufTokenizer:
    """What a GGUF file says of a tokenizer.

    Attributes:
        fields: metadata fields for llama.cpp, and the model's name.
        files: the Hugging Face files, packed so that our reader can restore them; None where it cannot.
    """

    fields: Mapping[str, Field]
    files: str | None


def tokenizer_of(model: Model) -> GgufTokenizer:
    """A model's tokenizer with as many tokens as the embedding has rows.

    Raises:
        FormatError: llama.cpp has no such tokenizer, or splits text differently whatever it is told.
    """
    return _tokenizer(model.folder, model.tokenizer_digest, model.architecture.size("vocab"))


@functools.lru_cache(4)
def _tokenizer(folder: Path, digest: str, size: int) -> GgufTokenizer:
    """Kept, because finding the pre-tokenizer loads llama.cpp and packing a large vocabulary takes seconds."""
    fields = _kept(folder, size) or _made(folder, size)
    return GgufTokenizer(fields, pack_files(folder, fields))


def _kept(folder: Path, size: int) -> dict[str, Field] | None:
    """The fields of the GGUF file that the model came from, unless the vocabulary has changed since."""
    path = folder / "tokenizer.gguf"
    if not path.is_file():
        return None
    fields = tokenizer_fields(read_gguf(path))
    return {NAME: text_field(folder.name), **fields} if len(fields[TOKENS].value) == size else None


def _made(folder: Path, size: int) -> dict[str, Field]:
    """Fields from tokenizer.json."""
    if not (folder / "tokenizer.json").is_file():
        raise _unknown(folder, "it has no tokenizer.json")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    fields = vocabulary_fields(folder, tokenizer, size)
    pre, name = find_pre_tokenizer(fields, tokenizer, folder.name)
    return {NAME: text_field(name), **fields, PRE: text_field(pre)}


def vocabulary_fields(folder: Path, tokenizer: Any, size: int) -> dict[str, Field]:
    """The fields of a Hugging Face tokenizer, all but the right name of its pre-tokenizer."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    kind = _kind(folder, data)
    tokens, types = _tokens(data, size, kind)
    fields = {MODEL: text_field(kind), PRE: text_field("default"), TOKENS: texts_field(tokens)}
    fields[TYPES] = integers_field(types)
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in data["model"]["merges"]]
    if kind == "llama":
        fields[SCORES] = floats_field(_scores(tokens, merges))
        fields["tokenizer.ggml.add_space_prefix"] = flag_field(_adds_space(data))
    elif merges:
        fields[MERGES] = texts_field([" ".join(pair) for pair in merges])
    return {**fields, **_special_fields(tokenizer, size)}


def _unknown(folder: Path, why: str) -> FormatError:
    return FormatError(f"tokenizer of {folder.name}", why, "export a Hugging Face folder instead")


def _kind(folder: Path, data: Mapping[str, Any]) -> str:
    """llama.cpp's name of the kind of tokenizer: "gpt2" for byte-level BPE, "llama" for SentencePiece-like BPE."""
    if data["model"]["type"] != "BPE":
        raise _unknown(folder, f"it is {data['model']['type']}, and the export knows byte-level and SentencePiece BPE")
    if data["model"].get("byte_fallback"):
        return "llama"
    if '"ByteLevel"' in json.dumps([data.get("pre_tokenizer"), data.get("decoder")]):
        return "gpt2"
    raise _unknown(folder, "it is BPE over characters, and the export knows byte-level and SentencePiece BPE")


def _tokens(data: Mapping[str, Any], size: int, kind: str) -> tuple[list[str], list[int]]:
    """Text and type of every token; rows of the embedding that no token has are unused."""
    types = gguf.TokenType
    tokens, kinds = [f"[PAD{index}]" for index in range(size)], [int(types.UNUSED)] * size
    unknown = data["model"].get("unk_token")
    for token, index in data["model"]["vocab"].items():
        if index < size:
            byte = kind == "llama" and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
            tokens[index] = token
            kinds[index] = int(types.BYTE if byte else types.UNKNOWN if token == unknown else types.NORMAL)
    for added in data["added_tokens"]:
        index = added["id"]
        if index < size:
            tokens[index] = added["content"]
            if kinds[index] != types.UNKNOWN:
                kinds[index] = int(types.CONTROL if added["special"] else types.USER_DEFINED)
    return tokens, kinds


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """Minus the rank of the first merge that makes each token: llama.cpp merges the best score first."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [float(-ranks[token]) if token in ranks else 10 * UNMERGED for token in tokens]


def _adds_space(data: Mapping[str, Any]) -> bool:
    """Whether a space is put before the text."""
    steps = json.dumps([data.get("normalizer"), data.get("pre_tokenizer")])
    return '"Prepend"' in steps or '"prepend_scheme": "first"' in steps or '"prepend_scheme": "always"' in steps


def _special_fields(tokenizer: Any, size: int) -> dict[str, Field]:
    ids = dict(zip(_SPECIAL, ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id"), strict=True))
    fields = {}
    for name, attribute in ids.items():
        value = getattr(tokenizer, attribute)
        if value is not None and value < size:
            fields[f"tokenizer.ggml.{name}_token_id"] = count_field(value)
    empty = list(tokenizer("")["input_ids"])
    fields["tokenizer.ggml.add_bos_token"] = flag_field(empty[:1] == [tokenizer.bos_token_id])
    fields["tokenizer.ggml.add_eos_token"] = flag_field(empty[-1:] == [tokenizer.eos_token_id])
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    return {**fields, "tokenizer.chat_template": text_field(template)} if template else fields
