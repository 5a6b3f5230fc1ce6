"""A pydantic class by name, with fields that a user wrote; what is wrong with them in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from featherweight.core.errors import RecipeError, nearest

B = TypeVar("B", bound=BaseModel)


def from_fields(known: Mapping[str, type[B]], name: str, fields: Mapping[str, Any]) -> B:
    """One of several classes with these fields.

    Raises:
        RecipeError: an unknown name or field, or a value out of range.
    """
    if name not in known:
        raise RecipeError(f"objective {name!r}", "is unknown", nearest(name, known) or f"use one of {', '.join(known)}")
    names = known[name].model_fields
    unknown = [field for field in fields if field not in names]
    if unknown:
        hint = nearest(unknown[0], names) or (f"use one of {', '.join(names)}" if names else "it has none")
        raise RecipeError(f"field {unknown[0]!r} of {name}", "is unknown", hint)
    try:
        return known[name](**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"{name}.{first['loc'][0]} = {first['input']!r}", first["msg"].lower(), "give another value"
        ) from None
