"""`--set FIELD=VALUE`: any field of a technique from the command line."""

from __future__ import annotations

from typing import Any


def parsed_fields(settings: list[str]) -> dict[str, Any]:
    """Fields with their values, read as YAML."""
    import yaml

    from featherweight.core.errors import RecipeError

    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        try:
            found[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise RecipeError(f"--set {setting!r}", "is no FIELD=VALUE", "write for example --set batch=4")
    return found
