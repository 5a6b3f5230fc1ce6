"""A report of garak (report.jsonl, and its hitlog) as answers: one a prompt and generation, each with an outcome.

garak writes an attempt when it is answered and again, with status 2 and the same id, when detectors have scored it. A
score at or above the run's threshold is a hit, and an answer with a hit has failed; one with a score that is missing is
unparsed, as is one that no detector scored; one that is missing itself is an error. garak's own counts must come out of
the attempts, and the hits of a hitlog must be those of the report: a report that was cut or edited is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.labels import Outcome
from featherweight.core.user_file import numbered_lines, read_text

_DONE = 2  # garak's status of an attempt that was scored
_MEND = "give the .report.jsonl of a finished run of garak"
Entry = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True)
class GarakAnswer:
    """What a model answered to one prompt of a probe, and what detectors made of it.

    Attributes:
        id: of garak; another one in every run.
        probe, number: which prompt of which probe.
        generation: which of the answers to it.
        messages: the conversation that was put.
        text: the answer; None = there is none.
        scores: by detector; None = it gave none.
        threshold: a score from here on is a hit.
    """

    id: str
    probe: str
    number: int
    generation: int
    messages: tuple[Mapping[str, str], ...]
    text: str | None
    scores: Mapping[str, float | None]
    threshold: float

    @property
    def hits(self) -> list[str]:
        """Detectors that hit."""
        return [name for name, score in self.scores.items() if score is not None and score >= self.threshold]

    @property
    def outcome(self) -> Outcome:
        """What that comes to."""
        if self.text is None:
            return Outcome.ERROR
        if self.hits:
            return Outcome.FAILED
        return Outcome.PASSED if self.scores and None not in self.scores.values() else Outcome.UNPARSED


@dataclass(frozen=True)
class GarakReport:
    """A finished run of garak.

    Attributes:
        version: of garak.
        target: kind and name of what was asked.
        settings: of the run: generations a prompt, seed, threshold.
        answers: in the order of the report.
    """

    version: str
    target: str
    settings: Mapping[str, Any]
    answers: tuple[GarakAnswer, ...]


def read_garak(path: Path, hitlog: Path | None = None) -> GarakReport:
    """Reads a report and checks it against itself, and against its hitlog where there is one.

    Raises:
        DataError: names the line that is no part of a report, or what does not add up.
    """
    entries = _entries(path, f"garak report {str(path)!r}")
    setup, init = _one(entries, "start_run setup", path), _one(entries, "init", path)
    _one(entries, "completion", path)
    threshold = float(setup.get("run.eval_threshold", 0.5))
    scored = {each["uuid"]: (number, each) for number, each in _of(entries, "attempt") if each["status"] == _DONE}
    if not scored:
        raise DataError(str(path), "holds no scored attempt", _MEND)
    answers = tuple(answer for entry in scored.values() for answer in _answers(entry, threshold, path))
    _check_counts(answers, _of(entries, "eval"), path)
    if hitlog is not None:
        _check_hits(answers, _entries(hitlog, f"hitlog {str(hitlog)!r}"), hitlog)
    target = " ".join(str(setup.get(f"plugins.target_{each}")) for each in ("type", "name"))
    settings = {name: setup.get(f"run.{name}") for name in ("generations", "seed", "eval_threshold")}
    return GarakReport(str(init.get("garak_version")), target, settings, answers)


def _entries(path: Path, called: str) -> list[Entry]:
    found: list[Entry] = []
    for number, line in numbered_lines(read_text(path, called, _MEND)):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number}", f"is no JSON ({error.msg})", _MEND) from None
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number}", "is no JSON object", _MEND)
        found.append((number, record))
    return found


def _of(entries: Sequence[Entry], kind: str) -> list[Entry]:
    return [(number, each) for number, each in entries if each.get("entry_type") == kind]


def _one(entries: Sequence[Entry], kind: str, path: Path) -> Mapping[str, Any]:
    found = _of(entries, kind)
    if not found:
        why = "was not finished" if kind == "completion" else f"has no entry {kind!r}"
        raise DataError(str(path), why, _MEND)
    return found[-1][1]


def _answers(entry: Entry, threshold: float, path: Path) -> list[GarakAnswer]:
    number, attempt = entry
    try:
        turns = attempt["prompt"]["turns"]
        messages = tuple({"role": str(turn["role"]), "content": str(turn["content"]["text"])} for turn in turns)
        outputs = [output and output["text"] for output in attempt["outputs"]]
        scores = {str(name): list(each) for name, each in attempt["detector_results"].items()}
        return [
            GarakAnswer(
                str(attempt["uuid"]), str(attempt["probe_classname"]), int(attempt["seq"]), index, messages,
                None if text is None else str(text), {name: _score(each[index]) for name, each in scores.items()},
                threshold,
            )
            for index, text in enumerate(outputs)
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} line {number}", f"is no attempt as garak writes it ({type(error).__name__}: {error})", _MEND
        ) from None


def _score(value: Any) -> float | None:
    return None if value is None else float(value)


def _check_counts(answers: Sequence[GarakAnswer], evaluations: Sequence[Entry], path: Path) -> None:
    """Holds what garak counted against what its attempts give."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for answer in answers:
        for name, score in answer.scores.items():
            counted = found.setdefault((answer.probe, name), Counter())
            counted["nones" if score is None else "fails" if name in answer.hits else "passed"] += 1
    for number, each in evaluations:
        counted = found.get((str(each.get("probe")), str(each.get("detector"))), Counter())
        for key in ("passed", "fails", "nones"):
            if key in each and each[key] != counted[key]:
                raise DataError(
                    f"{path} line {number}", f"says {each[key]} {key} where the attempts give {counted[key]}", _MEND
                )


def _check_hits(answers: Sequence[GarakAnswer], entries: Sequence[Entry], path: Path) -> None:
    """Holds the hits of a hitlog against those of the report, both ways."""
    expected = {(answer.id, answer.generation, name) for answer in answers for name in answer.hits}
    logged = set()
    for number, each in entries:
        hit = (str(each.get("attempt_id")), each.get("attempt_idx"), str(each.get("detector")))
        if hit not in expected:
            raise DataError(f"{path} line {number}", "is a hit that the report does not have", "give both of one run")
        logged.add(hit)
    if len(logged) < len(expected):
        raise DataError(
            str(path), f"lacks {len(expected) - len(logged)} of the report's {len(expected)} hits",
            "give the hitlog of the same run",
        )  # fmt: skip
