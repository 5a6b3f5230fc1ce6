"""Classes of tokens, so that "which token comes next" becomes a question with a few answers.

By kind (a word, the rest of a word, a number, a mark, space, a special token, anything else), by how often a token
occurs in some text, or by hash: classes without meaning, the control of the other two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch
from featherweight.core.splitmix import remainder, splitmix

KINDS = ("word", "rest of a word", "number", "mark", "space", "special", "other")
_SPACES = ("Ġ", "▁", " ")  # how tokenizers write a leading space


@dataclass(frozen=True)
class TokenClasses:
    """A class for every id of a vocabulary.

    Attributes:
        names: of the classes.
        table: index of each id's class, int64 [vocabulary].
    """

    names: tuple[str, ...]
    table: torch.Tensor

    def mass(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Probability of each class, float64 [samples, classes], rows sum to 1.

        Args:
            probabilities: of ids, [samples, vocabulary], up to a common factor in each row.
        """
        found = torch.zeros(len(probabilities), len(self.names), dtype=torch.float64, device=probabilities.device)
        found.index_add_(1, self.table.to(probabilities.device), probabilities.double())
        return found / found.sum(1, keepdim=True)


def classes_by_kind(tokenizer: Any, vocabulary: int) -> TokenClasses:
    """What a token looks like.

    Args:
        tokenizer: of the model.
        vocabulary: ids that the model knows; those beyond the tokenizer's are "other".
    """
    special = set(tokenizer.all_special_ids)
    known = min(len(tokenizer), vocabulary)
    pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
    texts = tokenizer.batch_decode([[index] for index in range(known)], clean_up_tokenization_spaces=False)
    kinds = [
        "special" if index in special else _kind(piece or "", text)
        for index, (piece, text) in enumerate(zip(pieces, texts, strict=True))
    ] + ["other"] * (vocabulary - known)
    return TokenClasses(KINDS, torch.tensor([KINDS.index(kind) for kind in kinds]))


def _kind(piece: str, text: str) -> str:
    """The kind of a token that is written `piece` in the vocabulary and reads `text`."""
    inside = text.strip()
    if not inside:
        return "space"
    if inside[0].isdigit():
        return "number"
    if inside[0].isalpha():
        return "word" if piece.startswith(_SPACES) or text[0].isspace() else "rest of a word"
    return "mark" if inside.isascii() and inside.isprintable() else "other"


def classes_by_frequency(ids: torch.Tensor, vocabulary: int, count: int) -> TokenClasses:
    """Classes of nearly equal share in a text, the most frequent tokens first, and one of what it does not hold.

    Args:
        ids: the text, int64 of any shape.
        vocabulary: ids that the model knows.
        count: classes, the last one for tokens that do not occur.
    """
    _require_some(count)
    counts = torch.bincount(ids.flatten(), minlength=vocabulary)
    order = counts.argsort(descending=True, stable=True)
    shares = counts[order].double().cumsum(0) / counts.sum()
    middles = shares - counts[order].double() / (2 * counts.sum())
    table = torch.full((vocabulary,), count - 1)
    table[order] = (middles * (count - 1)).long().clamp(max=count - 2)
    table[counts == 0] = count - 1
    return TokenClasses((*(f"frequency {index + 1}" for index in range(count - 1)), "not seen"), table)


def classes_by_hash(vocabulary: int, count: int, seed: int = 0) -> TokenClasses:
    """Classes that mean nothing, each of nearly the same number of ids."""
    _require_some(count)
    table = remainder(splitmix(seed, 0, vocabulary), count)
    return TokenClasses(tuple(f"hash {index}" for index in range(count)), table)


def _require_some(count: int) -> None:
    if count < 2:
        raise DataError(f"{count} classes of tokens", "tell nothing apart", "ask for two or more")
