"""Configuration and tokenizer files of a Hugging Face folder, kept inside a GGUF file and taken out again unchanged.

llama.cpp's own fields do not hold all of them, and what a reader makes of those fields differs in small things. The
vocabulary and the merges, which are nearly all of a tokenizer.json, are not stored twice: they are filled in again
from llama.cpp's fields. A file that cannot be restored byte for byte in this way is left out, and the reader falls
back on transformers' converter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.gguf_metadata import Field

CONFIG, FILES = "featherweight.config", "featherweight.files"
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
    return json.dumps({**files, TOKENIZER: skeleton}, ensure_ascii=False)


def unpack_files(packed: str, fields: Mapping[str, Field], folder: Path) -> None:
    """Writes the companions into a folder, as they were."""
    files = json.loads(packed)
    files[TOKENIZER] = _fill(files[TOKENIZER], fields)
    for name in (*SMALL, TOKENIZER):
        if name in files:
            (folder / name).write_text(files[name], encoding="utf-8")


def _strip(text: str, fields: Mapping[str, Field]) -> dict[str, Any]:
    """A tokenizer.json without its vocabulary and merges, and what is needed to put them back."""
    data = json.loads(text)
    tokens, model = fields["tokenizer.ggml.tokens"].value, data["model"]
    vocabulary, merges = model.get("vocab", {}), model.get("merges", [])
    known = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    absent = [index for index, token in enumerate(tokens) if known.pop(token, None) != index]
    model["vocab"], model["merges"] = None, None
    return {
        "data": data,
        "absent": absent,
        "beyond": known,
        "pairs": bool(merges) and not isinstance(merges[0], str),
        "indent": 2 if text.startswith("{\n") else None,
    }


def _fill(skeleton: Mapping[str, Any], fields: Mapping[str, Field]) -> str:
    """The tokenizer.json that was stripped."""
    tokens, absent = fields["tokenizer.ggml.tokens"].value, set(skeleton["absent"])
    vocabulary = {token: index for index, token in enumerate(tokens) if index not in absent}
    vocabulary.update(skeleton["beyond"])
    if "tokenizer.ggml.merges" in fields:
        merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].value]
    elif "tokenizer.ggml.scores" in fields:
        merges = merges_of_scores(vocabulary, fields["tokenizer.ggml.scores"].value)
    else:
        merges = []
    joined = merges if skeleton["pairs"] else [" ".join(pair) for pair in merges]
    model = {**skeleton["data"]["model"], "vocab": vocabulary, "merges": joined}
    return json.dumps({**skeleton["data"], "model": model}, ensure_ascii=False, indent=skeleton["indent"])


def merges_of_scores(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that a SentencePiece-like vocabulary implies: every split of every scored token, best first."""
    ranked = sorted((-scores[index], token) for token, index in vocabulary.items() if scores[index] > UNMERGED)
    merges: list[tuple[str, str]] = []
    for _, token in ranked:
        splits = [(token[:at], token[at:]) for at in range(len(token) - 1, 0, -1)]
        merges += [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
    return merges


UNMERGED = -1e8
"""Score of a token that no merge makes: a character, a byte, a special token."""
