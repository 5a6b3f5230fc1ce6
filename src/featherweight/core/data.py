"""Text for calibration and measurement: what every Python has, local files, Hugging Face datasets; as token rows.

Documents are split by the hash of their text into calibration, selection and held-out parts, so that the text a model
is tuned on, the text candidates are chosen on and the text the result is judged on never overlap. The default text is
the documentation topics of pydoc (prose) and the standard library's sources (code); chat is written by the model
itself (`core.chat`) and joins them.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError, MissingExtra
from featherweight.core.lazy import torch
from featherweight.core.shares import divided
from featherweight.core.template import rendered
from featherweight.core.user_file import numbered_lines, read_text

Documents = Mapping[str, Sequence[str]]
"""Documents by domain."""

SPLITS = {"calibration": 0.5, "selection": 0.25, "held-out": 0.25}
_CHAT = "\x00chat:"  # marks a document that is a list of messages, to be formatted by the model's chat template
_PIECE = 4000  # characters: a long text counts as several documents, so that the bootstrap has units to resample


@dataclass(frozen=True)
class TokenSet:
    """Rows of tokens with where they come from.

    Attributes:
        ids: int64 [rows, length].
        domains: domain of each row.
        documents: index of the document that each row starts in; the unit of the bootstrap.
    """

    ids: torch.Tensor
    domains: tuple[str, ...]
    documents: tuple[int, ...]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the tokens and their domains."""
        hashed = hashlib.sha256(json.dumps([self.domains, list(self.ids.shape)]).encode())
        hashed.update(self.ids.contiguous().view(torch.uint8).numpy().data)
        return hashed.hexdigest()

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.ids.numel()

    def rows(self, chosen: Sequence[int]) -> TokenSet:
        """Some of the rows, in the given order."""
        return TokenSet(
            self.ids[list(chosen)],
            tuple(self.domains[row] for row in chosen),
            tuple(self.documents[row] for row in chosen),
        )

    def spread(self, rows: int) -> TokenSet:
        """At most `rows` rows, the same number from each domain as far as that goes."""
        by_domain: dict[str, list[int]] = {}
        for row, domain in enumerate(self.domains):
            by_domain.setdefault(domain, []).append(row)
        order = [row for _, row in sorted((i, row) for each in by_domain.values() for i, row in enumerate(each))]
        return self.rows(sorted(order[:rows]))


def default_documents() -> dict[str, list[str]]:
    """Prose and code that every Python installation holds."""
    from pydoc_data.topics import topics

    prose = [topics[name] for name in sorted(topics) if len(topics[name]) > 1000]
    library = Path(sysconfig.get_paths()["stdlib"])
    code = [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(library.glob("*.py"))]
    return {"prose": _pieces(prose), "code": _pieces([text for text in code if len(text) > 2000])}


def read_documents(source: str) -> dict[str, list[str]]:
    """Documents from a .txt or .jsonl file, or from a Hugging Face dataset ("hf:NAME").

    A .jsonl line holds "text" or "messages" (a chat, formatted later by the model's own template), perhaps "domain".

    Raises:
        DataError: missing, unreadable, empty, or lines without text.
    """
    if source.startswith("hf:"):
        return {"dataset": _pieces(_hub_texts(source[3:]))}
    path = Path(source)
    text = read_text(path, f"text {source!r}", "give a .txt or .jsonl file, or hf:DATASET")
    if not text.strip():
        raise DataError(str(path), "is empty", "give a file with text")
    if path.suffix == ".jsonl":
        return _jsonl(text, path)
    return {path.stem: _pieces([text])}


def _jsonl(text: str, path: Path) -> dict[str, list[str]]:
    documents: dict[str, list[str]] = {}
    for number, line in numbered_lines(text):
        try:
            record = json.loads(line)
            domain = str(record.get("domain", path.stem))
            body = _CHAT + json.dumps(record["messages"]) if "messages" in record else str(record["text"])
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
            raise DataError(
                f"{path} line {number}", "has neither 'text' nor 'messages'", "write one JSON object a line"
            ) from None
        documents.setdefault(domain, []).append(body)
    return {domain: _pieces(texts) for domain, texts in documents.items()}


def _hub_texts(name: str) -> list[str]:
    try:
        import datasets
    except ImportError:
        raise MissingExtra(f"dataset {name!r}", "datasets", "data") from None
    try:
        rows = datasets.load_dataset(name, split="train", streaming=True)
        texts = [str(row["text"]) for row, _ in zip(rows, range(4000), strict=False) if row.get("text")]
    except Exception as error:  # the library raises many kinds, all meaning that it could not be had
        raise DataError(f"dataset {name!r}", f"cannot be loaded ({error})", "check its name and the network") from None
    if not texts:
        raise DataError(f"dataset {name!r}", "has no column 'text'", "export it to a .jsonl file with 'text'")
    return texts


def _pieces(texts: Sequence[str]) -> list[str]:
    """Long texts cut at line ends into pieces of about 4,000 characters."""
    pieces: list[str] = []
    for text in texts:
        lines, size, piece = text.splitlines(keepends=True), 0, []
        for line in lines:
            piece.append(line)
            size += len(line)
            if size >= _PIECE:
                pieces.append("".join(piece))
                piece, size = [], 0
        if piece:
            pieces.append("".join(piece))
    return pieces


def split_documents(documents: Documents, seed: int = 0) -> dict[str, dict[str, list[str]]]:
    """Documents of each split by domain, assigned by the hash of their text: no document is in two splits."""
    result: dict[str, dict[str, list[str]]] = {name: {} for name in SPLITS}
    for domain, texts in documents.items():
        for name, part in divided(texts, SPLITS, seed).items():
            result[name][domain] = part
    return result


def split_rows(
    documents: Documents, tokenizer: Any, counts: Mapping[str, int], length: int, called: str, seed: int = 0
) -> dict[str, TokenSet]:
    """Rows of the parts of a text that share no document.

    Args:
        documents: texts by domain.
        tokenizer: of the model.
        counts: rows by part: calibration, selection, held-out.
        length: tokens of a row.
        called: the text, for errors.
        seed: of the split.

    Raises:
        DataError: a part is too short.
    """
    splits = split_documents(documents, seed)
    return {
        part: tokenize(splits[part], tokenizer, count, length, f"{called} ({part} part)")
        for part, count in counts.items()
    }


def tokenize(documents: Documents, tokenizer: Any, rows: int, length: int, what: str = "text") -> TokenSet:
    """Up to `rows` rows of `length` tokens, the same number from each domain.

    A long document gives its first row; short ones follow each other until a row is full.

    Raises:
        DataError: the text does not fill two rows.
    """
    prefix = list(tokenizer("")["input_ids"])
    each = -(-rows // max(len(documents), 1))
    ids: list[list[int]] = []
    domains: list[str] = []
    origins: list[int] = []
    for position, (domain, texts) in enumerate(documents.items()):
        for row, origin in _rows(texts, tokenizer, prefix, each, length):
            ids.append(row)
            domains.append(domain)
            origins.append(position * 10**6 + origin)
    if len(ids) < 2:
        found = sum(len(tokenizer(text)["input_ids"]) for texts in documents.values() for text in texts)
        raise DataError(
            what,
            f"is too short: {found} tokens do not make 2 rows of {length}",
            f"give at least {12 * length} tokens in all, or shorter rows",
        )
    return TokenSet(torch.tensor(ids), tuple(domains), tuple(origins))


def _rows(texts: Sequence[str], tokenizer: Any, prefix: list[int], rows: int, length: int) -> Any:
    """Rows of exactly `length` tokens with the index of the document that each starts in."""
    room = length - len(prefix)
    pieces = (_encode(text, tokenizer, room) for text in texts)
    for row, origin in itertools.islice(packed(pieces, room, tokenizer.eos_token_id), rows):
        yield prefix + row, origin


def packed(pieces: Iterable[Sequence[int]], length: int, end: int | None) -> Iterator[tuple[list[int], int]]:
    """Rows of exactly `length` tokens, each with the index of the piece that it starts with.

    Every row starts with a new piece; a long one gives one row, short ones follow each other until a row is full.

    Args:
        pieces: token ids of one document each.
        length: tokens a row.
        end: what is put behind a piece that another one follows; None = nothing.
    """
    pending: list[int] = []
    start = 0
    for index, piece in enumerate(pieces):
        if not pending:
            start = index
        pending += piece
        if len(pending) < length:
            pending += [end] if end is not None else []
            continue
        yield pending[:length], start
        pending = []


def _encode(text: str, tokenizer: Any, limit: int) -> list[int]:
    if text.startswith(_CHAT):
        text = rendered(tokenizer, json.loads(text.removeprefix(_CHAT)))
    # Eight characters a token is more than any tokenizer reaches on text; the rest would be thrown away.
    return list(tokenizer(text[: 8 * limit], add_special_tokens=False)["input_ids"])
