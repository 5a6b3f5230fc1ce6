"""A safety run: every case of every set put to one model, each answer labelled and receipted as soon as it is there.

One line of the ledger a case and run, whatever happens; it holds everything that the result depends on, so that it can
be read by itself. The seed of a draw depends on what is asked and on the run, so that an interrupted run that goes on
writes the very lines that it would have written. Nothing here decides whether a model is safe enough.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featherweight.core.cases import Case, CaseSet
from featherweight.core.errors import DataError, LedgerError
from featherweight.core.labels import Role
from featherweight.core.policy import suite_digest
from featherweight.core.progress import Progress
from featherweight.core.receipt import Ledger, Receipt
from featherweight.measure.answers import Answer, Connector, Generation, ask
from featherweight.measure.labelling import Labelled, Labeller
from featherweight.measure.safety_receipt import ANSWER, Form, answers_in

HEADER = "safety"
_Place = tuple[int, Role, Case]


@dataclass(frozen=True)
class SafetyRun:
    """What is asked, how, and of whom.

    Attributes:
        sets: cases by role.
        connector: the model.
        labeller: what says what an answer is.
        generation: how answers are drawn; every run has another seed.
        runs: how often every case is put.
        store_text: whether receipts hold answers and the judge's words, or only their digests.
    """

    sets: Mapping[Role, CaseSet]
    connector: Connector
    labeller: Labeller
    generation: Generation = field(default_factory=Generation)
    runs: int = 1
    store_text: bool = True

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """Everything that the receipts depend on, as plain JSON."""
        return {
            "model": dict(self.connector.facts), "suite": suite_digest(self.sets),
            "sets": {role.value: {"digest": each.digest, "cases": len(each)} for role, each in self.sets.items()},
            "generation": self.generation.to_dict(), "runs": self.runs, "labelling": self.labeller.facts,
            "store_text": self.store_text,
        }  # fmt: skip

    @property
    def total(self) -> int:
        """How many answers there will be."""
        return self.runs * sum(len(cases) for cases in self.sets.values())

    def write(self, ledger: Ledger, progress: Progress | None = None) -> list[Receipt]:
        """Appends what is missing in a ledger, and returns the receipts of all answers.

        Args:
            ledger: empty, or of this very run, interrupted.
            progress: shows what is going on.

        Raises:
            DataError: there is no case; LedgerError: the ledger is of another run.
        """
        if not self.sets or not all(len(cases) for cases in self.sets.values()):
            raise DataError("the suite", "has a set without a case, which says nothing of a model", "add cases")
        ledger.append_once({"step": HEADER, **self.inputs})
        self._require_own(ledger)
        done = len(ledger) - 1
        for run, role in itertools.product(range(self.runs), self.sets):
            count = len(self.sets[role])
            self._set(ledger, run, role, min(done, count), progress or Progress())
            done -= min(done, count)
        ledger.sync()
        return answers_in(ledger)

    def _places(self) -> Iterator[_Place]:
        for run, (role, cases) in itertools.product(range(self.runs), self.sets.items()):
            yield from ((run, role, case) for case in cases)

    def _require_own(self, ledger: Ledger) -> None:
        """Refuses a ledger whose lines are not the first ones of this run."""
        header, *answers = ledger
        if header.content["step"] != HEADER or len(answers) > self.total:
            raise LedgerError(str(ledger.path), "is of another run", "start a new one")
        for number, (receipt, (run, role, case)) in enumerate(zip(answers, self._places(), strict=False), start=2):
            written = tuple(receipt.content.get(key) for key in ("step", "run", "set", "case", "prompt"))
            if written != (ANSWER, run, role.value, case.id, case.digest):
                raise LedgerError(f"{ledger.path} line {number}", "is of another run", "start a new one")

    def _set(self, ledger: Ledger, run: int, role: Role, done: int, progress: Progress) -> None:
        """Puts the cases of a set beyond the first `done`, from the beginning of their batch: neighbours matter."""
        cases, generation = self.sets[role].cases, dataclasses.replace(self.generation, seed=self.generation.seed + run)
        if done == len(cases):
            return
        first = done - done % generation.batch
        form = Form(self.inputs["suite"], self.inputs["model"], self.labeller, self.store_text)
        label = f"{role}, run {run + 1} of {self.runs}" if self.runs > 1 else role.value
        with progress.track(label, len(cases) - first) as advance:
            answered = zip(cases[first:], _asked(self.connector, cases[first:], generation), strict=True)
            labelled = self._labelled(answered, advance)
            for case, answer, said in itertools.islice(labelled, done - first, None):
                ledger.append(form.content(run, role, case, generation, answer, said), {"seconds": answer.seconds})

    def _labelled(
        self, answered: Iterable[tuple[Case, Answer]], advance: Callable[[], None]
    ) -> Iterator[tuple[Case, Answer, Labelled | None]]:
        """Answers with their labels, a batch at a time, so that a judge is asked in batches too."""
        stream = iter(answered)
        while batch := list(itertools.islice(stream, self.generation.batch)):
            whole = [(case, answer.text) for case, answer in batch if not answer.error]
            labels = iter(self.labeller.label(whole, self.generation.batch))
            for case, answer in batch:
                advance()
                yield case, answer, None if answer.error else next(labels)


def _asked(connector: Connector, cases: Sequence[Case], generation: Generation) -> Iterator[Answer]:
    return ask(connector, [case.messages for case in cases], generation)
