"""What a person writes in one option: `--set FIELD=VALUE`, any field of a technique, and names with commas."""

from __future__ import annotations

from typing import Any


def parsed_fields(settings: list[str]) -> dict[str, Any]:
    """Fields with their values, read as YAML."""
    from featherweight.core.fields import assignment

    found = (assignment(setting, "batch=4") for setting in settings)
    return {name.replace("-", "_"): value for name, value in found}


def listed(text: str | None) -> tuple[str, ...]:
    """Names with commas between them; none where there is no text."""
    return tuple(each.strip() for each in (text or "").split(",") if each.strip())
