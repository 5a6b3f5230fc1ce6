"""Technique: a class that turns a model into a model, its registry, and the entry-point group that fills it.

Fields of a technique are its hyper-parameters. A file that defines one imports nothing heavy, so that `list` is quick.
"""

from __future__ import annotations

import enum
import functools
import importlib.metadata
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from featherweight.core.errors import RecipeError, nearest
from featherweight.core.fields import built

if TYPE_CHECKING:
    from featherweight.core.model import Model
    from featherweight.core.run import Run

ENTRY_POINTS = "featherweight.techniques"


class Kind(enum.StrEnum):
    """What sort of change a technique makes."""

    ADAPT = "adapt"
    RESTRUCTURE = "restructure"
    PRUNE = "prune"
    QUANTIZE = "quantize"
    MERGE = "merge"


class Need(enum.StrEnum):
    """What a technique cannot work without."""

    CALIBRATION = "calibration text"
    PARENT = "the parent model"
    LABELS = "labels"
    GPU = "a GPU"


@dataclass(frozen=True)
class Paper:
    """Where a technique comes from: an arXiv id (or empty) and a title."""

    arxiv: str
    title: str

    def __str__(self) -> str:
        return f"arXiv {self.arxiv}: {self.title}" if self.arxiv else self.title


class Technique(BaseModel):
    """Base class. A subclass sets `kind` and `paper`, declares fields, and implements `apply`.

    Attributes:
        kind: what sort of change it makes.
        paper: its source.
        needs: what it cannot work without.
        not_after: names of techniques that must not come before it, with the reason.
        rotates: whether it mixes channels by a rotation, so that sizes of single weights mean little afterwards.
        rotation_aware: whether a pruner takes such a rotation into account.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[Kind]
    paper: ClassVar[Paper]
    needs: ClassVar[frozenset[Need]] = frozenset()
    not_after: ClassVar[dict[str, str]] = {}
    rotates: ClassVar[bool] = False
    rotation_aware: ClassVar[bool] = False
    name: ClassVar[str] = ""

    @abstractmethod
    def apply(self, model: Model, run: Run) -> Model:
        """A new model; `model` is not changed."""

    @classmethod
    @abstractmethod
    def neutral(cls) -> Technique:
        """The setting that changes nothing, or that equals the baseline which `neutral_means` names."""

    neutral_means: ClassVar[str] = "every tensor stays as it is, bit for bit"

    @property
    def plans(self) -> bool:
        """Whether it only plans formats, which a step after it carries out."""
        return False

    @property
    def follows_plan(self) -> bool:
        """Whether it carries out what a step before it planned."""
        return False

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Runtimes that can store its result, such as "gguf"; empty = every one."""
        return ()

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    def outside(self) -> dict[str, str]:
        """Digests of what it reads beside the model and the run, by field: with the fields, what identifies a step."""
        return {}

    def fields(self) -> dict[str, Any]:
        """All hyper-parameters as plain JSON values."""
        return self.model_dump(mode="json")


_REGISTRY: dict[str, type[Technique]] = {}
T = TypeVar("T", bound=type[Technique])


def technique(cls: T) -> T:
    """Class decorator: adds a technique to the registry under its kebab-case name.

    Raises:
        RecipeError: another class already has that name.
    """
    cls.name = cls.name or _kebab(cls.__name__)
    other = _REGISTRY.get(cls.name)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise RecipeError(
            f"technique {cls.name!r}",
            f"is defined by both {other.__module__} and {cls.__module__}",
            "rename one of them",
        )
    _REGISTRY[cls.name] = cls
    return cls


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


@functools.cache
def _load_all() -> None:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # whatever another package does must not take everything down with it
            warnings.warn(f"the techniques of {point.value} are left out: {error}", stacklevel=2)


def techniques() -> dict[str, type[Technique]]:
    """Every technique by name, ours and those of installed packages."""
    _load_all()
    return dict(sorted(_REGISTRY.items()))


def find(name: str) -> type[Technique]:
    """The technique class called `name`; underscores count as hyphens.

    Raises:
        RecipeError: there is none; the nearest names are suggested.
    """
    found = _REGISTRY.get(name.replace("_", "-"))
    if found is None:
        known = techniques()
        found = known.get(name.replace("_", "-"))
    if found is None:
        everywhere = "see `featherweight list`" if known else "install the package again: it has lost its entry points"
        raise RecipeError(f"technique {name!r}", "is unknown", nearest(name, known) or everywhere)
    return found


def build(name: str, fields: dict[str, Any]) -> Technique:
    """A technique with these fields.

    Raises:
        RecipeError: an unknown name or field, or a value out of range.
    """
    cls = find(name)
    return built(cls, fields, cls.name, RecipeError, f"see `featherweight show {cls.name}`")
