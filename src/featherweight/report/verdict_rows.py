"""A verification as plain rows for JUnit and SARIF: one a check, and one a case that the child lost, at its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featherweight.report.rows import Row, State
from featherweight.report.safety_rows import Places

_STATES: dict[str, State] = {"pass": "passed", "fail": "failed", "cannot tell": "unknown"}
_CHANGES: dict[str, State] = {"lost": "failed", "doubtful": "unknown"}
_MOST = 1000  # cases; the others are in flips.jsonl


def check_rows(content: Mapping[str, Any]) -> list[Row]:
    """One row a check.

    Args:
        content: what `verdict.json` holds as content.
    """
    return [
        Row(
            group, check["name"], _STATES[check["verdict"]], check["reason"],
            f"asked for {check['asked']}; found {check['found']}",
        )
        for group, section in _sections(content)
        for check in section["checks"]
    ]  # fmt: skip


def lost_rows(content: Mapping[str, Any], places: Places) -> list[Row]:
    """One row for each case that the child lost, or may have lost.

    Args:
        content: with all flips.
        places: file and line of each case.
    """
    rows: list[Row] = []
    for group, section in _sections(content):
        flips: Sequence[Mapping[str, Any]] = section["facts"].get("flips", {}).get("rows", [])
        rows += [_lost(group, flip, places) for flip in flips if flip["change"] in _CHANGES][:_MOST]
    return rows


def _sections(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    several = len(content["children"]) > 1
    for child in content["children"]:
        for section in child["sections"]:
            yield (f"{child['name']}: {section['name']}" if several else section["name"]), section


def _lost(group: str, flip: Mapping[str, Any], places: Places) -> Row:
    file, line = places.get((flip["set"], flip["id"]), ("", 0))
    was, now = (flip[who]["adjudicated"] or flip[who]["label"] for who in ("parent", "child"))
    message = f"expected {flip['expected']}; parent: {was}, child: {now}"
    return Row(
        f"{group}, {flip['set']}", flip["id"], _CHANGES[flip["change"]], message, file=file, line=line,
        digest=flip["prompt"],
    )  # fmt: skip
