"""What fit searches when it searches: depths, widths, groups and formats that a model and its runtime can take.

The residual stream and the heads stay as they are unless asked for: without training afterwards, narrowing them costs
more than anything else, and a mixture with them disturbs all other decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from featherweight.core.errors import SearchError
from featherweight.core.model import Model
from featherweight.core.slicing import allowed_groups
from featherweight.train.space import WIDTHS, Space, space_of

Mode = Literal["planner", "joint", "sequential"]
Sizes = Mapping[str, Sequence[int]]
"""Options by decision, instead of the usual ones."""

# Few formats of well-spaced sizes: every one of them is a copy of all weights while the search runs.
_OFFERED = {
    "gguf": ("Q2_K", "Q3_K", "IQ4_NL", "Q5_0", "Q8_0"), "compressed-tensors": ("int4-g64", "int4-g32", "int8-g64"),
}  # fmt: skip
REFERENCE = {"gguf": "Q5_0", "compressed-tensors": "int4-g32"}
"""The format whose bytes stand for the others while a sequential search decides on sizes."""

_SHARES = (0.5, 0.75, 0.875, 1.0)
_DEPTHS = (0.7, 0.8, 0.9, 1.0)
_MULTIPLE = 256  # of FFN channels where there are that many, so that K-quants fit


def check_mode(text: str) -> None:
    """Refuses a way of finding candidates that there is not.

    Raises:
        SearchError: with those that there are.
    """
    if text not in get_args(Mode):
        raise SearchError(f"--search {text!r}", "is unknown", f"use {', '.join(get_args(Mode))}")


def parse_sizes(given: Sequence[str]) -> dict[str, list[int]]:
    """Options by decision from lines like "ffn=768,1152,1536".

    Raises:
        SearchError: a line that says something else.
    """
    sizes = {}
    for line in given:
        name, _, options = line.partition("=")
        numbers = [each.strip() for each in options.split(",")]
        if not name.strip() or not all(each.isdecimal() for each in numbers):
            raise SearchError(f"--space {line!r}", "is no list of sizes", "write for example ffn=768,1152,1536")
        sizes[name.strip()] = [int(each) for each in numbers]
    return sizes


def default_sizes(model: Model) -> dict[str, Sequence[int]]:
    """Depths, FFN widths and numbers of groups."""
    a = model.architecture
    unit = _MULTIPLE if a.size("ffn") % _MULTIPLE == 0 and a.size("ffn") > 2 * _MULTIPLE else 32
    depths = {max(1, round(a.blocks * share)) for share in _DEPTHS}
    widths = {max(unit, round(a.size("ffn") * share / unit) * unit) for share in _SHARES} | {a.size("ffn")}
    return {"blocks": sorted(depths), "ffn": sorted(widths), "groups": allowed_groups(model)[-2:]}


def fit_space(model: Model, runtime: str, sizes: Sizes | None = None) -> Space:
    """What fit searches: sizes everywhere alike, one format a group of linears with the same input.

    Raises:
        SearchError: an option that the model cannot take.
    """
    given = {**default_sizes(model), **(sizes or {})}
    decisions = ("blocks", *WIDTHS)
    for name in given:
        if name not in decisions:
            raise SearchError(f"the search space's {name!r}", "is no decision", f"use {', '.join(decisions)}")
    offered = _OFFERED[runtime]
    ends = offered if runtime == "gguf" else ()
    return space_of(
        model,
        given.get("blocks", ()),
        given.get("ffn", ()),
        given.get("groups", ()),
        given.get("head_dim", ()),
        given.get("hidden", ()),
        formats=offered,
        ends=ends,
    )
