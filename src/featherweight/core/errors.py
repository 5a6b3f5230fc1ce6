"""Errors that name the input, what is wrong with it and what to do; the command line turns each into exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeatherweightError(Exception):
    """Base of every error a user can cause.

    Args:
        what: the input, as the user would recognise it.
        why: what is wrong with it.
        mend: what to do about it.
    """

    def __init__(self, what: str, why: str, mend: str) -> None:
        super().__init__(f"{what}: {why}; {mend}{'' if mend.endswith('?') else '.'}")
        self.what, self.why, self.mend = what, why, mend


class BudgetError(FeatherweightError):
    """A budget that cannot be read, or that makes no sense for this model."""


class CheckpointError(FeatherweightError):
    """A folder or file that is not a readable model."""


class AdapterError(FeatherweightError):
    """An adapter that cannot be read or written, or that belongs to another model."""


class MergeError(FeatherweightError):
    """Models that cannot be merged: of another base, shape, number type, tokenizer or configuration, or none at all."""


class UnsupportedArchitecture(FeatherweightError):
    """A model whose architecture has no entry in `architectures.toml`."""


class FormatError(FeatherweightError):
    """A number format that does not exist or does not fit a tensor."""


class SliceError(FeatherweightError):
    """A plan of what to keep of a model that leaves no model which stock classes can load."""


class DataError(FeatherweightError):
    """Text that is missing, empty, unreadable or too short."""


class RecipeError(FeatherweightError):
    """A recipe with an unknown technique, an unknown field or a bad value."""


class PolicyError(FeatherweightError):
    """A safety policy with an unknown key or a bad value, or one that names a plug-in which nobody has."""


class EndpointError(FeatherweightError):
    """A model server that is not there, or that answers something else than it should."""


class TrainingError(FeatherweightError):
    """Training that cannot go on: a loss that is not a number, or nothing left to train."""


class SearchError(FeatherweightError):
    """A search space that the model does not have, or in which nothing is small enough."""


class OutputError(FeatherweightError):
    """An output that exists already or cannot be written."""


class ResumeError(FeatherweightError):
    """A run folder that was made from other inputs than the ones given now."""


class LedgerError(FeatherweightError):
    """A ledger whose hash chain does not hold."""


class MissingExtra(FeatherweightError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, package: str, extra: str | None = None, mend: str | None = None) -> None:
        install = f"pip install 'featherweight[{extra}]'" if extra else f"pip install {package}"
        super().__init__(feature, f"the package '{package}' is not installed", mend or f"install it with: {install}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The words of `known` that look like `word`, as the tail of an error sentence."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
