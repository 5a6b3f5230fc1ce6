"""adjudicate: people say what single answers are, and the comparison is concluded again with their labels.

    adjudicate("verdict/safety", labels="reviewed.jsonl")
    adjudicate("verdict/safety", ask=show_and_ask)

What they say is kept by the digests of prompt and answer, without any text, and used again by every later comparison in
which the same answer to the same prompt comes up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import CheckpointError, DataError
from featherweight.core.labels import Label
from featherweight.core.source import default_cache
from featherweight.core.user_file import numbered_lines, read_text
from featherweight.verbs.safety_evidence import FLIPS, Evidence, concluded, read_evidence
from featherweight.verify.adjudications import Adjudications, label_of
from featherweight.verify.flips import ERROR, SIDES, Row, settled, with_labels
from featherweight.verify.section import Section

Asked = Mapping[str, Label] | None
"""Labels by side ("parent", "child"); empty = this row is skipped, None = enough for now."""


@dataclass(frozen=True)
class Adjudicated:
    """What came of it.

    Attributes:
        folder: of the comparison.
        section: the conclusion with the labels of people.
        given: labels that were given now.
        settled: rows that people have labelled, now and earlier.
        rows: all rows.
    """

    folder: Path
    section: Section
    given: int
    settled: int
    rows: int


def adjudicate(
    run: str | Path,
    *,
    labels: str | Path | None = None,
    ask: Callable[[Row, int, int], Asked] | None = None,
    by: str = "",
    adjudications: str | Path | None = None,
) -> Adjudicated:
    """Takes labels of people, keeps them and concludes the comparison again.

    Args:
        run: the folder of a comparison, or one that holds exactly one.
        labels: a .jsonl file: "set", "id", and a label under "parent", "child" or both; an edited `flips.jsonl` too.
        ask: asked for every row that is not settled, with its number and how many there are.
        by: who says so.
        adjudications: where labels are kept; None = the file in the user's cache.

    Raises:
        CheckpointError: there is no comparison; DataError: a line names no flip, or a label that is none.
    """
    folder = comparison_in(Path(run))
    evidence = read_evidence(folder)
    people = Adjudications.read(Path(adjudications) if adjudications else default_cache() / "adjudications.jsonl")
    given = 0
    if labels is not None:
        given += _from_file(evidence, people, Path(labels), by)
    if ask is not None:
        given += _by_asking(evidence, people, ask, by)
    section = concluded(evidence, people, folder)
    rows = with_labels(evidence.rows, people)
    return Adjudicated(folder, section, given, sum(map(settled, rows)), len(rows))


def comparison_in(folder: Path) -> Path:
    """The folder of the one comparison in a folder.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    found = sorted(path.parent for path in folder.rglob(FLIPS)) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(str(folder), "holds no comparison", "give a folder that `verify --safety` wrote")
    names = ", ".join(str(each) for each in found[:3])
    raise CheckpointError(str(folder), f"holds {len(found)} comparisons", f"give one of them, such as {names}")


def _from_file(evidence: Evidence, people: Adjudications, path: Path, by: str) -> int:
    rows = {(row["set"], row["id"]): row for row in evidence.rows}
    said: list[tuple[Row, dict[str, Label]]] = []
    for number, line in numbered_lines(read_text(path, f"labels {str(path)!r}", "give a .jsonl file")):
        where = f"{path} line {number}"
        try:
            record = json.loads(line)
            row = rows[str(record["set"]), str(record["id"])]
        except (json.JSONDecodeError, TypeError):
            raise DataError(where, "is no JSON object", "write 'set', 'id' and labels") from None
        except KeyError:
            raise DataError(where, "names no flip of this comparison", f"take set and id from {FLIPS}") from None
        labels = {who: label_of(value, where) for who in SIDES if (value := _given(record.get(who)))}
        if row["parent"]["answer"] == row["child"]["answer"] and len(set(labels.values())) > 1:
            raise DataError(where, "gives two labels to one answer: both models wrote the same", "give one")
        said.append((row, labels))
    return _kept(people, said, by)


def _given(value: Any) -> Any:
    """The label of a side, written plainly or as in `flips.jsonl`."""
    return value.get("adjudicated") if isinstance(value, dict) else value


def _by_asking(
    evidence: Evidence, people: Adjudications, ask: Callable[[Row, int, int], Asked], by: str
) -> int:  # fmt: skip
    """Asks row after row; what was said is kept at once."""
    open_rows = [row for row in with_labels(evidence.rows, people) if not settled(row)]
    given = 0
    for number, row in enumerate(open_rows, start=1):
        said = ask(row, number, len(open_rows))
        if said is None:
            break
        given += _kept(people, [(row, dict(said))], by)
    return given


def _kept(people: Adjudications, said: list[tuple[Row, dict[str, Label]]], by: str) -> int:
    count = 0
    for row, labels in said:
        for who, label in labels.items():
            if row[who]["label"] != ERROR:
                people.set((row["prompt"], row[who]["answer"]), label, by)
                count += 1
    if count:
        people.save()
    return count
