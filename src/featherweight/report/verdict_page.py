"""Renders the record of a verification as one HTML page that needs nothing else: pictures first, then every check.

It knows the sections by the shape of their facts, not by who made them: a section without a picture of its own still
has its checks in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.report import verdict_charts
from featherweight.report.template import chart, filled

_MARKS = {"pass": "met", "fail": "missed", "cannot tell": "open"}
_SHOWN = 12  # cases side by side


def render(verdict: Mapping[str, Any]) -> str:
    """The page.

    Args:
        verdict: what `verdict.json` holds.
    """
    content = verdict["content"]
    children = [_child(number, child) for number, child in enumerate(content["children"])]
    return filled(
        "verdict.html.jinja", verdict=verdict, content=content, children=children, ranking=_ranking(content),
        ranking_chart=chart(verdict_charts.ranking(content), "ranking") if content["ranking"] else "", marks=_MARKS,
    )  # fmt: skip


def _child(number: int, child: Mapping[str, Any]) -> dict[str, Any]:
    """One child with its pictures."""
    sections = {section["name"]: section for section in child["sections"]}
    figures: list[dict[str, Any]] = []
    for name, section in sections.items():
        for title, note, figure in verdict_charts.figures(name, section["facts"]):
            key = f"{number}-{len(figures)}"
            figures.append({"title": title, "note": note, "chart": chart(figure, key)})
    answered = [section["facts"]["cases"] for name, section in sections.items() if name.startswith("generation")]
    return {
        **child, "figures": figures, "changed": _changed(answered[0]) if answered else [],
        "served": sections.get("served", {}).get("facts"), "safety": _safety(sections.get("safety", {}).get("facts")),
        "checks": [(section["name"], check) for section in child["sections"] for check in section["checks"]],
    }  # fmt: skip


def _changed(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cases whose answers have other defects than the parent's, worst first, then others whose answers differ."""
    new = [each for each in cases if set(each["child"]["defects"]) - set(each["parent"]["defects"])]
    failed = [each for each in cases if (each["child"]["error"] or each["parent"]["error"]) and each not in new]
    rest = [
        each for each in cases
        if each["child"]["text"] != each["parent"]["text"] and each not in new and each not in failed
    ]  # fmt: skip
    return [*new, *failed, *rest][:_SHOWN]


def _safety(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a safety comparison warns of, and the flips, losses first."""
    if facts is None:
        return None
    flips, counts = facts["flips"], facts["flips"]["count"]
    shown = [row for row in flips["rows"] if row["change"] != "sample"][:_SHOWN]
    more = sum(count for change, count in counts.items() if change != "sample") - len(shown)
    return {"warnings": facts["warnings"], "flips": shown, "more": more}


def _ranking(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Children as they were ranked, then those that are out."""
    ranking = content["ranking"]
    if not ranking:
        return []
    by_name = {child["name"]: child for child in content["children"]}
    ranked = [{"name": name, "closeness": closeness, "vetoed": []} for name, closeness in ranking["ranked"]]
    out = [{"name": name, "closeness": None, "vetoed": missed} for name, missed in ranking["vetoed"].items()]
    return [{**row, "child": by_name[row["name"]]} for row in [*ranked, *out]]
