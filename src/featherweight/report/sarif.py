"""SARIF 2.1.0 of plain rows, for code scanning: a result for everything that did not pass, at the line that asks it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from featherweight.core.version import __version__
from featherweight.report.rows import Row

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVEL = {"failed": "error", "error": "error", "unknown": "warning"}


def sarif(rows: Sequence[Row], rules: Mapping[str, str] | None = None, facts: Mapping[str, Any] | None = None) -> str:
    """The JSON text.

    Args:
        rows: what was checked.
        rules: what each group asks, in words, by group.
        facts: plain JSON about the run.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    driver = {
        "name": "featherweight", "version": __version__,
        "rules": [
            {"id": group, "shortDescription": {"text": (rules or {}).get(group, group)}} for group in groups
        ],
    }  # fmt: skip
    run = {
        "tool": {"driver": driver}, "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": all(row.state != "error" for row in rows)}],
        "results": [_result(row, groups.index(row.group)) for row in rows if row.state != "passed"],
        "properties": {"checked": len(rows), "passed": sum(row.state == "passed" for row in rows), **(facts or {})},
    }  # fmt: skip
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _result(row: Row, rule: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": row.group, "ruleIndex": rule, "level": _LEVEL[row.state],
        "message": {"text": f"{row.name}: {row.message or row.state}"},
        "properties": {"case": row.name, "state": row.state},
    }  # fmt: skip
    if row.detail:
        result["properties"]["detail"] = row.detail
    if row.file:
        place: dict[str, Any] = {"artifactLocation": {"uri": quote(PurePath(row.file).as_posix())}}
        if row.line:
            place["region"] = {"startLine": row.line}
        result["locations"] = [{"physicalLocation": place}]
    if row.digest:
        result["partialFingerprints"] = {"case/v1": row.digest}
    return result
