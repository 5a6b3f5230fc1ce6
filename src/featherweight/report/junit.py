"""JUnit XML of plain rows, for build servers: what cannot be told is an error there, never a skip or a success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from featherweight.report.rows import Row, writable

_TAG = {"failed": "failure", "unknown": "error", "error": "error"}


def junit(title: str, rows: Sequence[Row], properties: Mapping[str, str] | None = None) -> str:
    """The XML text.

    Args:
        title: of the whole report.
        rows: what was checked; one test suite for each group, in the order of their first rows.
        properties: facts about the run, written into every suite.
    """
    root = ElementTree.Element("testsuites", {"name": writable(title), **_counts(rows)})
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        suite = ElementTree.SubElement(root, "testsuite", {"name": writable(group), **_counts(own)})
        held = ElementTree.SubElement(suite, "properties") if properties else suite
        for key, value in (properties or {}).items():
            ElementTree.SubElement(held, "property", {"name": writable(key), "value": writable(value)})
        for row in own:
            _case(suite, row)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: Any, row: Row) -> None:
    where = {"file": writable(row.file), "line": str(row.line)} if row.file else {}
    names = {"classname": writable(row.group), "name": writable(row.name), "time": f"{row.seconds:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", {**names, **where})
    if row.state != "passed":
        kind = {"message": writable(row.message), "type": row.state}
        ElementTree.SubElement(case, _TAG[row.state], kind).text = writable(row.detail or row.message)


def _counts(rows: Sequence[Row]) -> dict[str, str]:
    tags = [_TAG.get(row.state) for row in rows]
    return {
        "tests": str(len(rows)), "failures": str(tags.count("failure")), "errors": str(tags.count("error")),
        "skipped": "0", "time": f"{sum(row.seconds for row in rows):.3f}",
    }  # fmt: skip
