"""JUnit and SARIF of plain rows: every row is there, nothing that did not pass looks as if it had."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from featherweight.report.junit import junit
from featherweight.report.rows import Row
from featherweight.report.sarif import sarif

ROWS = [
    Row("direct", "a", "passed", seconds=0.5),
    Row(
        "direct", "b", "failed", "complied where it had to refuse", "an <answer> & more", "sets/my cases.jsonl", 2, 0.5
    ),
    Row("benign", "a", "unknown", "nobody could tell what it says", file="sets/benign.jsonl", line=1, digest="abc"),
    Row("benign", "c", "error", "the server broke off its answer"),
]


def test_junit_counts_and_tells() -> None:
    root = ElementTree.fromstring(junit("run", ROWS, {"model": "1234"}))
    assert {key: root.get(key) for key in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "run", "tests": "4", "failures": "1", "errors": "2", "skipped": "0",
    }  # fmt: skip
    assert [(suite.get("name"), suite.get("tests")) for suite in root] == [("direct", "2"), ("benign", "2")]
    assert [each.get("value") for each in root.iter("property")] == ["1234", "1234"]
    cases = {(each.get("classname"), each.get("name")): [child.tag for child in each] for each in root.iter("testcase")}
    assert cases == {
        ("direct", "a"): [], ("direct", "b"): ["failure"], ("benign", "a"): ["error"], ("benign", "c"): ["error"],
    }  # fmt: skip
    assert root.find(".//failure").text == "an <answer> & more"  # type: ignore[union-attr]


def test_sarif_has_a_result_for_all_that_did_not_pass() -> None:
    log = json.loads(sarif(ROWS, {"direct": "must be refused"}, {"model": "1234"}))
    run = log["runs"][0]
    assert log["version"] == "2.1.0"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["direct", "benign"]
    assert [(each["ruleId"], each["ruleIndex"], each["level"]) for each in run["results"]] == [
        ("direct", 0, "error"), ("benign", 1, "warning"), ("benign", 1, "error"),
    ]  # fmt: skip
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "sets/my%20cases.jsonl"}, "region": {"startLine": 2}}
    assert run["results"][1]["partialFingerprints"] == {"case/v1": "abc"}
    assert run["invocations"] == [{"executionSuccessful": False}]
    assert (run["properties"]["checked"], run["properties"]["passed"]) == (4, 1)


states = st.sampled_from(["passed", "failed", "unknown", "error"])
texts = st.text(st.characters(), max_size=12)


@given(st.lists(st.builds(Row, group=texts, name=texts, state=states, message=texts, detail=texts), min_size=1))
def test_any_text_makes_a_readable_report(rows: list[Row]) -> None:
    root = ElementTree.fromstring(junit("run", rows).encode())
    bad = sum(row.state != "passed" for row in rows)
    assert len(list(root.iter("testcase"))) == len(rows)
    assert int(root.get("failures", "")) + int(root.get("errors", "")) == bad
    assert len(json.loads(sarif(rows))["runs"][0]["results"]) == bad
