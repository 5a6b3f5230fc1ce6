"""Reads a safety policy from YAML, with one sentence for what is wrong with it, which names the field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from featherweight.core.errors import PolicyError, nearest
from featherweight.core.fields import lower_first
from featherweight.core.policy import Drawing, Judge, Margins, Openings, Policy, Sets, Thresholds
from featherweight.core.user_file import read_text

_PARTS: dict[Any, Any] = {
    "sets": Sets, "judge": Judge, "generation": Drawing, "thresholds": Thresholds, "margins": Margins,
    "openings": Openings,
}  # fmt: skip


def read_policy(path: str | Path) -> Policy:
    """The policy in a YAML file.

    Raises:
        DataError: there is no such file, or it is no UTF-8 text.
        PolicyError: it is no YAML, a key is unknown or given twice, a value is wrong; the field is named.
    """
    text = read_text(path, f"safety policy {str(path)!r}", "give the path of a policy in YAML")
    return parse_policy(text, str(path), Path(path).parent)


def parse_policy(text: str, source: str, folder: Path) -> Policy:
    """The policy in a YAML text; paths in it are relative to `folder`."""
    try:
        data = yaml.load(text, _OnceEach)  # a SafeLoader
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())  # it comes in several lines
        raise PolicyError(source, f"is not valid YAML ({reason})", "check its indentation and its keys") from None
    if not isinstance(data, dict):
        raise PolicyError(source, "holds no policy", "write `sets:` with a file for each role")
    try:
        policy = Policy.model_validate(data)
    except ValidationError as error:
        raise _refused(source, error.errors()[0]) from None
    return _located(policy, folder)


class _OnceEach(yaml.SafeLoader):
    """Refuses a key that is written twice, of which only the last would count."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _refused(source: str, first: Any) -> PolicyError:
    """A validation error as a sentence that names the field."""
    *parents, last = first["loc"] or ("",)
    where = f"{source}, {'.'.join(str(part) for part in first['loc'])}".rstrip(", ")
    if first["type"] == "extra_forbidden":
        known = _fields(parents)
        return PolicyError(where, "is unknown", nearest(str(last), known) or f"use one of {', '.join(known)}")
    if first["type"] == "missing":
        return PolicyError(where, "is missing", "add it")
    message = lower_first(first["msg"].removeprefix("Value error, "))
    given = f" and is {first['input']!r}" if isinstance(first["input"], (str, int, float, bool)) else ""
    return PolicyError(where, f"{message}{given}", "correct the policy")


def _fields(parents: Sequence[Any]) -> list[str]:
    return list(_PARTS.get(parents[0] if parents else "", Policy).model_fields)


def _located(policy: Policy, folder: Path) -> Policy:
    """The policy with its paths made those of files."""
    sets = {role.value: folder / path for role, path in policy.sets.paths().items()}
    changes: dict[str, Any] = {"sets": Sets(**sets)}
    if policy.labelled is not None:
        changes["labelled"] = folder / policy.labelled
    if policy.judge is not None:
        key, model = policy.judge.key_file, policy.judge.model
        beside = {"model": str(folder / model)} if (folder / model).exists() else {}
        changes["judge"] = policy.judge.model_copy(update={"key_file": key and folder / key, **beside})
    return policy.model_copy(update=changes)
