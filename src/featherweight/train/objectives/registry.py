"""Objectives of sequence networks by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.core.errors import RecipeError
from featherweight.core.fields import built_by_name
from featherweight.train.objectives.base import Objective
from featherweight.train.objectives.contrast import ContrastivePrediction
from featherweight.train.objectives.masked import DataToVector, JointEmbedding
from featherweight.train.objectives.next_token import NextToken

OBJECTIVES: Mapping[str, type[Objective]] = {
    each.name: each for each in (ContrastivePrediction, JointEmbedding, DataToVector, NextToken)
}


def usual_objectives(
    names: Sequence[str], fields: Mapping[str, Mapping[str, Any]], positions: int, tokens: bool
) -> dict[str, Objective]:
    """Objectives by name, with offsets and negatives that suit the length of the sequences.

    Args:
        names: of them; none = the usual ones.
        fields: what is set of some, by name.
        positions: of a sequence, after the encoder.
        tokens: whether the inputs are tokens.

    Raises:
        RecipeError: an unknown name or field, or a value out of range.
    """
    chosen = names or (("next-token", "cpc", "data2vec") if tokens else ("cpc", "jepa", "data2vec"))
    check_set(fields, chosen)
    suited = {"offset": min(max(positions // 16, 1), 14), "negatives": min(max(positions // 4, 1), 128)}
    usual: dict[str, dict[str, Any]] = {ContrastivePrediction.name: suited}
    return {name: build_objective(name, {**usual.get(name, {}), **fields.get(name, {})}) for name in chosen}


def check_set(fields: Mapping[str, Mapping[str, Any]], chosen: Sequence[str]) -> None:
    """Refuses fields of objectives that take no part."""
    for name in fields:
        if name not in chosen:
            raise RecipeError(f"--set {name}.…", f"sets a field of {name!r}, which takes no part", "name it too")


def build_objective(name: str, fields: Mapping[str, Any] | None = None) -> Objective:
    """An objective with these fields.

    Raises:
        RecipeError: an unknown name or field, or a value out of range.
    """
    return built_by_name(OBJECTIVES, name, fields or {}, "objective", RecipeError)
