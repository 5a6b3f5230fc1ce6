"""Builds an object from fields that a person wrote, with one sentence for what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from featherweight.core.errors import FeatherweightError, RecipeError, nearest

T = TypeVar("T", bound=BaseModel)


def built(cls: type[T], fields: Mapping[str, Any], named: str, refused: type[FeatherweightError], mend: str) -> T:
    """An instance with these fields.

    Args:
        cls: what is built.
        fields: as the person wrote them.
        named: what the person calls it.
        refused: the error of an unknown field, or of a value out of range.
        mend: what to do about a bad value.
    """
    unknown = [field for field in fields if field not in cls.model_fields]
    if unknown:
        known = f"use one of {', '.join(cls.model_fields)}" if cls.model_fields else "it has none"
        hint = nearest(unknown[0], cls.model_fields) or known
        raise refused(f"field {unknown[0]!r} of {named}", "is unknown", hint)
    try:
        return cls(**fields)
    except FeatherweightError as error:
        raise refused(f"{named} with {error.what}", error.why, error.mend) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{named}.{field} = {first['input']!r}" if field else named
        raise refused(where, lower_first(first["msg"].removeprefix("Value error, ")), mend) from None


def assignment(setting: str, example: str) -> tuple[str, Any]:
    """Name and value, read as YAML, of what a person wrote behind `--set`.

    Args:
        setting: FIELD=VALUE.
        example: one that would do.

    Raises:
        RecipeError: it is none, or its value is no YAML.
    """
    import yaml

    name, equals, value = setting.partition("=")
    try:
        if equals:
            return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise RecipeError(f"--set {setting!r}", "is no FIELD=VALUE", f"write for example --set {example}")


def lower_first(sentence: str) -> str:
    """A sentence as the middle of another."""
    return sentence[:1].lower() + sentence[1:]


def built_by_name(
    known: Mapping[str, type[T]], name: str, fields: Mapping[str, Any], what: str, refused: type[FeatherweightError]
) -> T:
    """An instance of the class that goes by a name.

    Args:
        known: classes by name.
        name: as the person wrote it.
        fields: of that class.
        what: a class of this kind is called.
        refused: the error of an unknown name or field, or of a value out of range.
    """
    if name not in known:
        raise refused(f"{what} {name!r}", "is unknown", nearest(name, known) or f"use one of {', '.join(known)}")
    return built(known[name], fields, name, refused, "give another value")
