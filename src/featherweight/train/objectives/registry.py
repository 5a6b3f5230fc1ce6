"""Objectives of sequence networks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from featherweight.core.errors import RecipeError, nearest
from featherweight.train.objectives.base import Objective
from featherweight.train.objectives.contrast import ContrastivePrediction
from featherweight.train.objectives.masked import DataToVector, JointEmbedding
from featherweight.train.objectives.next_token import NextToken

OBJECTIVES: Mapping[str, type[Objective]] = {
    each.name: each for each in (ContrastivePrediction, JointEmbedding, DataToVector, NextToken)
}


def build_objective(name: str, fields: Mapping[str, Any] | None = None) -> Objective:
    """An objective with these fields.

    Raises:
        RecipeError: an unknown name or field, or a value out of range.
    """
    if name not in OBJECTIVES:
        hint = nearest(name, OBJECTIVES) or f"use one of {', '.join(OBJECTIVES)}"
        raise RecipeError(f"objective {name!r}", "is unknown", hint)
    cls, given = OBJECTIVES[name], dict(fields or {})
    unknown = [field for field in given if field not in cls.model_fields]
    if unknown:
        hint = nearest(unknown[0], cls.model_fields) or f"use one of {', '.join(cls.model_fields) or 'none'}"
        raise RecipeError(f"field {unknown[0]!r} of {name}", "is unknown", hint)
    try:
        return cls(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"{name}.{first['loc'][0]} = {first['input']!r}", first["msg"].lower(), "give another value"
        ) from None
