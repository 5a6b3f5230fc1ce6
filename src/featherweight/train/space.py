"""A search space: a few decisions about a model, each with a few options; and a choice, one option of each.

Decisions are "blocks" (how many), "ffn", "groups", "head_dim", "hidden" (how wide, everywhere alike, because stock
classes have one size for all blocks), "activations" (bits) and one "format ..." for the matrices that share a number
format. A decision that is left out stays as it is in the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from featherweight.core.architecture import EMBEDDING, HEAD, Architecture
from featherweight.core.errors import SearchError
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.slicing import allowed_groups, narrower_heads, refused_sizes

Option = int | str
Choice = Mapping[str, Option]
"""One option a decision."""

WIDTHS = ("hidden", "ffn", "groups", "head_dim")
FORMAT = "format "
Precision = Literal["layer", "part", "model"]


@dataclass(frozen=True)
class Space:
    """Decisions with their options, ascending.

    Attributes:
        options: options by decision.
        formats: the decision that a matrix follows, by parameter name; matrices left out stay unrounded.
    """

    options: Mapping[str, tuple[Option, ...]]
    formats: Mapping[str, str]

    @property
    def size(self) -> int:
        """How many choices there are."""
        return math.prod(len(options) for options in self.options.values())

    def choices(self) -> Iterator[dict[str, Option]]:
        """All of them."""
        for picked in itertools.product(*self.options.values()):
            yield dict(zip(self.options, picked, strict=True))

    def only(self, fixed: Choice) -> Space:
        """The same decisions, some of them already taken."""
        return Space({**self.options, **{name: (each,) for name, each in fixed.items()}}, self.formats)

    def architectures(self) -> Iterator[dict[str, Option]]:
        """All choices of everything but formats."""
        names = [name for name in self.options if not name.startswith(FORMAT)]
        for picked in itertools.product(*(self.options[name] for name in names)):
            yield dict(zip(names, picked, strict=True))


def space_of(
    model: Model,
    blocks: Sequence[int] = (),
    ffn: Sequence[int] = (),
    groups: Sequence[int] = (),
    head_dim: Sequence[int] = (),
    hidden: Sequence[int] = (),
    formats: Sequence[str] = (),
    ends: Sequence[str] = (),
    activations: Sequence[int] = (),
    precision: Precision = "layer",
) -> Space:
    """A space for a model; no options = the decision is left out.

    Args:
        model: unrounded.
        blocks: numbers of blocks to choose from.
        ffn: numbers of FFN channels.
        groups: numbers of key/value groups.
        head_dim: widths of a head.
        hidden: widths of the residual stream.
        formats: of the linears; those whose blocks do not divide every possible row are left out for that matrix.
        ends: of the embedding and the head; none = they stay as they are.
        activations: bits of the linears' inputs.
        precision: what shares a format: each group of linears with one input, each kind of them, or all linears.

    Raises:
        SearchError: an option that the model cannot take.
    """
    given = {"blocks": blocks, "hidden": hidden, "ffn": ffn, "groups": groups, "head_dim": head_dim}
    options: dict[str, tuple[Option, ...]] = {
        name: _checked(name, each, model) for name, each in given.items() if len(each)
    }
    _require_loadable(model, options)
    if activations:
        options["activations"] = tuple(sorted(activations))
    units = _units(model.architecture, precision) if formats else {}
    for name in [EMBEDDING, *([] if model.architecture.tied else [HEAD])] if ends else []:
        units[name] = FORMAT + "embedding"
    for unit in dict.fromkeys(units.values()):
        names = [name for name, each in units.items() if each == unit]
        options[unit] = _fitting(unit, names, ends if unit.endswith("embedding") else formats, options, model)
    return Space(options, units)


def _checked(name: str, given: Sequence[int], model: Model) -> tuple[int, ...]:
    a = model.architecture
    most = {"blocks": a.blocks, "groups": a.kv_heads, "head_dim": a.head_dim}.get(name) or a.size(name)
    sizes = tuple(sorted(set(given)))
    if sizes[0] < 1 or sizes[-1] > most:
        wrong = sizes[0] if sizes[0] < 1 else sizes[-1]
        raise SearchError(f"{name} of the search", f"offers {wrong}, but the model has {most}", f"use 1 to {most}")
    if name == "groups" and not set(sizes) <= set(allowed := allowed_groups(model)):
        raise SearchError("groups of the search", f"are {list(sizes)}, but stock classes load {allowed}", "use those")
    if name == "head_dim" and sizes != (most,):
        reason = narrower_heads(model)
        if reason is not None or any(size % 2 for size in sizes):
            why = reason or "rotary embeddings turn pairs of channels, so it must be even"
            raise SearchError(f"head_dim of the search for {a.class_name}", f"cannot change: {why}", "leave it out")
    return sizes


def _require_loadable(model: Model, options: Mapping[str, tuple[Option, ...]]) -> None:
    """Refuses sizes of which some pair gives a model that stock classes do not load."""
    a = model.architecture
    for hidden in options.get("hidden", ()):
        for groups in options.get("groups", (a.kv_heads,)):
            reason = refused_sizes(model, int(groups), int(hidden))
            if reason is not None:
                raise SearchError(
                    f"hidden {hidden} with {groups} groups", f"gives no model that stock classes load ({reason})",
                    "offer other sizes",
                )  # fmt: skip


def _units(architecture: Architecture, precision: Precision) -> dict[str, str]:
    """The format decision of every linear."""
    units = {}
    for block in range(architecture.blocks):
        for read in architecture.reads:
            for module in read.linears:
                part = {"layer": f"{block}.{read.linears[0]}", "part": module.split(".")[0], "model": "linears"}
                units[architecture.linear(block, module)] = FORMAT + part[precision]
    return units


def _fitting(
    unit: str, names: Sequence[str], formats: Sequence[str], options: Mapping[str, tuple[Option, ...]], model: Model
) -> tuple[str, ...]:
    """The formats that can store the matrices of a unit at every width, fewest bits first."""
    a = model.architecture
    lengths = {length for name in names for length in _row_lengths(a.axes(name, 2)[1], options, a)}
    fitting = [kind for kind in formats if all(get(kind).accepts((1, length)) for length in lengths)]
    if not fitting:
        raise SearchError(
            f"{', '.join(formats)} for {unit.removeprefix(FORMAT)}", f"do not store rows of {sorted(lengths)} weights",
            "offer widths that are multiples of a format's blocks, or formats with smaller blocks",
        )  # fmt: skip
    widest = max(lengths)
    return tuple(sorted(fitting, key=lambda kind: (get(kind).row_bits(widest), kind)))


def _row_lengths(axis: str, options: Mapping[str, tuple[Option, ...]], architecture: Architecture) -> set[int]:
    return {size_of(axis, dict(zip(options, each, strict=True)), architecture) for each in itertools.product(
        *(options[name] if name in depends_on(axis) else (None,) for name in options)
    )}  # fmt: skip


def depends_on(axis: str) -> tuple[str, ...]:
    """The width decisions that decide how long an axis is."""
    deciding = {"hidden": ("hidden",), "ffn": ("ffn",), "query": ("groups", "head_dim"), "kv": ("groups", "head_dim")}
    deciding["head"] = ("head_dim",)
    return tuple(dict.fromkeys(name for part in axis.split("+") for name in deciding.get(part, ())))


def size_of(axis: str, choice: Mapping[str, Option | None], architecture: Architecture) -> int:
    """Entries of an axis under a choice."""
    total = 0
    for part in axis.split("+"):
        if part in ("query", "kv"):
            heads = 1 if part == "kv" else architecture.heads_a_group
            groups = int(choice.get("groups") or architecture.kv_heads)
            total += groups * heads * int(choice.get("head_dim") or architecture.head_dim)
        else:
            decision = "head_dim" if part == "head" else part
            total += int(choice.get(decision) or architecture.size(part))
    return total
