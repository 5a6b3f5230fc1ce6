"""Recipe: an ordered list of techniques with their fields, to and from YAML.

steps:
  - depth: {drop: 2}
  - mixed-precision: {memory: 90MB}
  - gptq
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from featherweight.core.errors import RecipeError
from featherweight.core.technique import Technique, build


@dataclass(frozen=True)
class Recipe:
    """Techniques in the order in which they are applied."""

    steps: tuple[Technique, ...]

    def __iter__(self) -> Iterator[Technique]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: technique names with the fields that differ from their defaults."""
        return {"steps": [_step(step) for step in self.steps]}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=100)

    @property
    def digest(self) -> str:
        """SHA-256 of all steps with all their fields."""
        full = [[step.name, step.fields()] for step in self.steps]
        return hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        return " → ".join(_short(step) for step in self.steps) or "(nothing)"

    @classmethod
    def from_dict(cls, data: Any, source: str = "recipe") -> Recipe:
        """Reads what `to_dict` writes.

        Raises:
            RecipeError: the shape is wrong, a technique or field is unknown, or two steps contradict each other.
        """
        if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
            raise RecipeError(source, "has no list called 'steps'", "write `steps:` and one technique a line")
        extra = set(data) - {"steps"}
        if extra:
            raise RecipeError(source, f"has the unknown key {sorted(extra)[0]!r}", "a recipe has only 'steps'")
        recipe = cls(tuple(_build_step(step, source) for step in data["steps"]))
        recipe.check_order()
        return recipe

    @classmethod
    def from_yaml(cls, text: str, source: str = "recipe") -> Recipe:
        """Reads what `to_yaml` writes."""
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())  # it comes in several lines
            raise RecipeError(source, f"is not valid YAML ({reason})", "check its indentation") from None
        return cls.from_dict(data, source)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Reads a recipe file."""
        if not path.is_file():
            raise RecipeError(str(path), "does not exist", "give the path of a recipe in YAML")
        return cls.from_yaml(path.read_text(encoding="utf-8"), str(path))

    def check_order(self) -> None:
        """Refuses steps in an order that one of them rules out."""
        for position, step in enumerate(self.steps):
            for earlier in self.steps[:position]:
                if earlier.name in step.not_after:
                    reason = step.not_after[earlier.name]
                    raise RecipeError(
                        f"recipe step {step.name}", f"comes after {earlier.name}: {reason}", "swap the two steps"
                    )


def _build_step(step: Any, source: str) -> Technique:
    if isinstance(step, str):
        return build(step, {})
    if not isinstance(step, dict) or len(step) != 1:
        raise RecipeError(source, f"has a step that is no technique: {step!r}", "write `- name: {field: value}`")
    name, fields = next(iter(step.items()))
    if fields is not None and not isinstance(fields, dict):
        raise RecipeError(source, f"gives {name!r} {fields!r} instead of fields", "write `- name: {field: value}`")
    return build(str(name), fields or {})


def _changed(step: Technique) -> dict[str, Any]:
    return step.model_dump(mode="json", exclude_defaults=True)


def _step(step: Technique) -> Any:
    fields = _changed(step)
    return {step.name: fields} if fields else step.name


def _short(step: Technique) -> str:
    shown = [f"{value}" for value in _changed(step).values() if not isinstance(value, (dict, list))]
    return f"{step.name}({', '.join(shown)})" if shown else step.name
