"""Configuration and tokenizer files of a Hugging Face folder, kept inside a GGUF file and taken out again unchanged.

llama.cpp's own fields do not hold all of them, and what a reader makes of those fields differs in small things. The
vocabulary and the merges, which are nearly all of a tokenizer.json, are not stored twice: they are filled in again
from llama.cpp's fields. A file that cannot be restored byte for byte in this way is left out, and the reader falls
back on transformers' converter.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.gguf_metadata import Field

CONFIG, FILES = "featherweight.config", "featherweight.files"
ORDERS = ("listed", "score", "place")
UNMERGED = -1e8  # scores below this belong to tokens that no merge makes: characters, bytes, special tokens
SMALL = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")
TOKENIZER = "tokenizer.json"


def pack_files(folder: Path, fields: Mapping[str, Field]) -> str | None:
    """The companions of a model folder as one string, given the tokenizer fields beside which it will lie."""
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    skeleton = _strip(text, fields)
    if _fill(skeleton, fields) != text:
        return None
    files = {name: (folder / name).read_text(encoding="utf-8") for name in SMALL if (folder / name).is_file()}
    packed = json.dumps({**files, TOKENIZER: skeleton}, ensure_ascii=False).encode()
    return base64.b64encode(zlib.compress(packed, 9)).decode()


def unpack_files(packed: str, fields: Mapping[str, Field], folder: Path) -> None:
    """Writes the companions into a folder, as they were."""
    files = json.loads(zlib.decompress(base64.b64decode(packed)))
    files[TOKENIZER] = _fill(files[TOKENIZER], fields)
    for name in (*SMALL, TOKENIZER):
        if name in files:
            (folder / name).write_text(files[name], encoding="utf-8")


def _strip(text: str, fields: Mapping[str, Field]) -> dict[str, Any]:
    """A tokenizer.json without its vocabulary and merges, and what is needed to put them back."""
    data = json.loads(text)
    tokens, model = fields["tokenizer.ggml.tokens"].value, data["model"]
    vocabulary = model["vocab"] if isinstance(model.get("vocab"), dict) else {}
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model.get("merges", [])]
    others = dict(vocabulary)
    absent = [index for index, token in enumerate(tokens) if others.pop(token, None) != index]
    orders = [order for order in ORDERS if _merges(order, vocabulary, fields) == merges]
    pairs = bool(merges) and not isinstance(model["merges"][0], str)
    model["vocab"], model["merges"] = None, None
    return {
        "data": data,
        "absent": absent,
        "others": others,
        "order": orders[0] if orders else ORDERS[0],
        "pairs": pairs,
        "indent": 2 if text.startswith("{\n") else None,
    }


def _fill(skeleton: Mapping[str, Any], fields: Mapping[str, Field]) -> str:
    """The tokenizer.json that was stripped."""
    tokens, absent = fields["tokenizer.ggml.tokens"].value, set(skeleton["absent"])
    vocabulary = {token: index for index, token in enumerate(tokens) if index not in absent}
    vocabulary.update(skeleton["others"])
    vocabulary = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    merges = _merges(skeleton["order"], vocabulary, fields)
    joined = merges if skeleton["pairs"] else [" ".join(pair) for pair in merges]
    model = {**skeleton["data"]["model"], "vocab": vocabulary, "merges": joined}
    return json.dumps({**skeleton["data"], "model": model}, ensure_ascii=False, indent=skeleton["indent"])


def _merges(order: str, vocabulary: Mapping[str, int], fields: Mapping[str, Field]) -> list[tuple[str, ...]]:
    """The merges that a file lists or, of a SentencePiece-like vocabulary, those that it implies.

    Every split of every token into two others is one, the best token first: by its score, or by its place.
    """
    listed, scores = fields.get("tokenizer.ggml.merges"), fields.get("tokenizer.ggml.scores")
    if order == "listed" or scores is None:
        return [tuple(merge.split(" ")) for merge in listed.value] if listed else []
    if order == "score":
        ranked = sorted((-scores.value[at], token) for token, at in vocabulary.items() if scores.value[at] > UNMERGED)
        return _splits([token for _, token in ranked], vocabulary)
    return _splits(sorted(vocabulary, key=lambda token: vocabulary[token]), vocabulary)


def _splits(tokens: Sequence[str], vocabulary: Mapping[str, int]) -> list[tuple[str, ...]]:
    pairs = ((token[:at], token[at:]) for token in tokens for at in range(len(token) - 1, 0, -1))
    return [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
