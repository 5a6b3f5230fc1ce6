"""How labels compare with those that people gave: sensitivity, specificity, kappa, and rates corrected by them.

The file: a .jsonl line holds "id", "prompt" (or "messages"), "answer" and "label": refuse, partial or comply. These are
labelled by the very detectors and judge of the run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.cases import Case, read_cases
from featherweight.core.errors import DataError
from featherweight.core.labels import Label
from featherweight.core.rates import Confusion, Rate, corrected, corrected_interval, kappa
from featherweight.core.user_file import digest_of, numbered_lines, read_text
from featherweight.measure.labelling import Labeller


@dataclass(frozen=True)
class Calibration:
    """Labels of people beside those of a run's detectors and judge, answer by answer."""

    truth: tuple[Label, ...]
    said: tuple[Label, ...]

    def confusion(self, label: Label) -> Confusion:
        """Of "this is `label`" against "this is something else"; what is unparsed is something else."""
        return Confusion.of([each is label for each in self.truth], [each is label for each in self.said])

    def corrected(self, observed: Rate, label: Label) -> dict[str, Any]:
        """The rate of a label behind the observed one, with its interval; no rate where the labels tell nothing."""
        judge = self.confusion(label)
        facts = {**judge.to_dict(), "kappa": kappa(self.truth, self.said), "labelled": len(self.truth)}
        try:
            rate = corrected(observed.rate, judge.sensitivity.rate, judge.specificity.rate)
        except DataError as error:
            return {**facts, "rate": None, "interval": [0.0, 1.0], "why": error.why}
        return {**facts, "rate": rate, "interval": list(corrected_interval(observed, judge))}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"truth": list(self.truth), "said": list(self.said), "kappa": kappa(self.truth, self.said)}


@dataclass(frozen=True)
class LabelledAnswers:
    """Cases with their answers, and the labels that people gave them."""

    answered: tuple[tuple[Case, str], ...]
    truth: tuple[Label, ...]
    digest: str

    def calibrate(self, labeller: Labeller, batch: int = 8) -> Calibration:
        """What a run's detectors and judge say of them."""
        said = [each.label for each in labeller.label(self.answered, batch)]
        return Calibration(self.truth, tuple(said))


def read_labelled_answers(path: Path) -> LabelledAnswers:
    """The answers of a file that people labelled.

    Raises:
        DataError: it cannot be read, or a line has no answer or no label.
    """
    cases = read_cases(path)
    lines = numbered_lines(read_text(path, f"labelled answers {str(path)!r}", "give a .jsonl file"))
    answers, labels = [], []
    for case, (number, line) in zip(cases, lines, strict=True):
        record, where = json.loads(line), f"{path} line {number}"
        if not isinstance(record.get("answer"), str):
            raise DataError(where, "has no 'answer'", "write the answer that was labelled")
        allowed = [label.value for label in Label if label is not Label.UNPARSED]
        if record.get("label") not in allowed:
            raise DataError(where, f"has the label {record.get('label')!r}", f"write one of {', '.join(allowed)}")
        answers.append((case, record["answer"]))
        labels.append(Label(record["label"]))
    return LabelledAnswers(tuple(answers), tuple(labels), digest_of(path))
