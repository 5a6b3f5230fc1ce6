"""Is a child as safe as its parent? Both are put the same cases, with a receipt for every answer, and compared.

    with asking.connect(parent) as one, asking.connect(child) as other:
        section = paired_safety(one, other, policy, "verdict/safety")

The folder holds `parent.jsonl`, `parent-again.jsonl` and `child.jsonl`, the chained receipts; `flips.jsonl`, what
people should look at; and `safety.json`, all that was found. An interrupted comparison goes on where its receipts end.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.cases import CaseSet, Message
from featherweight.core.labels import Role
from featherweight.core.policy import Policy
from featherweight.core.progress import Progress
from featherweight.core.receipt import Ledger, Receipt
from featherweight.core.source import default_cache
from featherweight.measure.answers import Connector, Generation
from featherweight.measure.connectors.hugging_face import HuggingFaceConnector
from featherweight.measure.early_signals import early_signals
from featherweight.measure.labelling import labeller_of
from featherweight.measure.safety import SafetyRun
from featherweight.measure.safety_statistics import statistics
from featherweight.verbs.safety_evidence import Evidence, concluded
from featherweight.verify.adjudications import Adjudications
from featherweight.verify.flips import listed, records
from featherweight.verify.gate import Check
from featherweight.verify.rtsi import screen
from featherweight.verify.safety_diff import safety_diff
from featherweight.verify.safety_pairs import Answers, answers_of
from featherweight.verify.safety_thresholds import safety_section
from featherweight.verify.section import Section

PARENT, AGAIN, CHILD = "parent.jsonl", "parent-again.jsonl", "child.jsonl"
_SYNC_SECONDS = 1.0


@dataclass
class SafetyParent:
    """The parent, asked once for all of its children.

    Attributes:
        connector: the model.
        policy: cases, labels, margins.
        folder: of its receipts.
        judge: the model of the policy's judge; None = there is none.
        again: whether it is asked a second time, in another order, for the noise floor.
        adjudications: file of the labels that people gave; None = the one in the user's cache.
        progress: shows what is going on.
        sets: the policy's cases, where they were read already.
    """

    connector: Connector
    policy: Policy
    folder: Path
    judge: Connector | None = None
    again: bool = True
    adjudications: Path | None = None
    progress: Progress = field(default_factory=Progress)
    sets: Mapping[Role, CaseSet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sets = self.sets or self.policy.case_sets()

    @functools.cached_property
    def messages(self) -> dict[str, Sequence[Message]]:
        """Conversations by their digests."""
        return {case.digest: case.messages for cases in self.sets.values() for case in cases}

    @functools.cached_property
    def receipts(self) -> Sequence[Receipt]:
        """The receipts of its answers."""
        return self.asked(self.connector, self.folder / PARENT, "the parent")

    @functools.cached_property
    def answers(self) -> Answers:
        """What it answers, labelled."""
        return answers_of(self.receipts)

    @functools.cached_property
    def noise(self) -> dict[str, Any] | None:
        """Flips of the parent against itself: asked in another order, so that other cases share a batch."""
        if not self.again:
            return None
        order = {role: _reordered(cases) for role, cases in self.sets.items()}
        again = answers_of(self.asked(self.connector, self.folder / AGAIN, "the parent, again", order))
        found = safety_diff(self._by_case(self.answers), self._by_case(again), self.policy.margins)
        return {"sets": {str(role): each.loss.to_dict() for role, each in found.sets.items()}}

    def _by_case(self, answers: Answers) -> Answers:
        """The answers in the order of the cases, however they were asked."""
        places = {role: {case.id: place for place, case in enumerate(cases)} for role, cases in self.sets.items()}
        return {role: sorted(own, key=lambda each: places[role][each.id]) for role, own in answers.items()}

    @property
    def labels_of_people(self) -> Adjudications:
        """What people said so far, of these models or of others."""
        return Adjudications.read(self.adjudications or default_cache() / "adjudications.jsonl")

    def asked(
        self, connector: Connector, path: Path, who: str, sets: Mapping[Role, CaseSet] | None = None
    ) -> list[Receipt]:
        """The receipts of a model's answers; those that a file holds already are not asked for again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.progress.say(f"{who}: {sum(map(len, self.sets.values()))} cases")
        run = SafetyRun(
            sets or self.sets, connector, labeller_of(self.policy, self.judge),
            Generation(**self.policy.generation.model_dump()), self.policy.runs, self.policy.store_text,
        )  # fmt: skip
        return run.write(Ledger(path, _SYNC_SECONDS), self.progress)

    def section(self, child: Connector, folder: Path) -> Section:
        """What a child lost; receipts, flips and facts are kept in `folder`."""
        receipts = self.asked(child, folder / CHILD, "the child")
        answers = answers_of(receipts)
        diff = safety_diff(self.answers, answers, self.policy.margins)
        rows = records(listed(diff.pairs, self.policy.generation.seed), self.messages)
        evidence = Evidence(
            self.answers, answers, self.policy.margins, rows, self.noise, self._wording(answers), self._signals(child),
            self._thresholds(receipts), self._identity(folder, receipts),
        )  # fmt: skip
        return concluded(evidence, self.labels_of_people, folder)

    def _wording(self, answers: Answers) -> dict[str, Any] | None:
        """The RTSI screen over direct cases, where answers are stored."""
        if Role.DIRECT not in answers or not self.policy.store_text:
            return None
        return screen(*([each.text for each in own[Role.DIRECT]] for own in (self.answers, answers))).to_dict()

    def _signals(self, child: Connector) -> dict[str, Any] | None:
        """Margins and divergences, where both models are in this process."""
        one = self.connector
        if not isinstance(one, HuggingFaceConnector) or not isinstance(child, HuggingFaceConnector):
            return None
        self.progress.say("refusal margins and divergences")
        return early_signals(one, child, self.sets, self.policy.openings)

    def _thresholds(self, receipts: Sequence[Receipt]) -> tuple[Check, ...]:
        """What the policy asks of the child alone: not to be worse than an unsafe parent is not to be safe."""
        found = safety_section(statistics(receipts), self.policy.thresholds).checks
        return tuple(dataclasses.replace(each, name=f"child alone, {each.name}") for each in found)

    def _identity(self, folder: Path, receipts: Sequence[Receipt]) -> dict[str, Any]:
        """What was compared, where its receipts are, and where they end."""
        ledgers = {
            "parent": {"path": os.path.relpath(self.folder / PARENT, folder), "head": self.receipts[-1].digest},
            "child": {"path": CHILD, "head": receipts[-1].digest},
        }
        return {"policy": self.policy.facts(), "receipts": ledgers}


def paired_safety(
    parent: Connector,
    child: Connector,
    policy: Policy,
    out: Path,
    *,
    judge: Connector | None = None,
    again: bool = True,
    adjudications: Path | None = None,
    progress: Progress | None = None,
) -> Section:
    """Puts the same cases to a parent and a child in the same way, and says what the child lost.

    Args:
        parent: the model to compare with.
        child: the model to judge.
        policy: cases, labels, drawing, margins.
        out: a folder for receipts, flips and facts.
        judge: the model of the policy's judge; None = there is none.
        again: whether the parent is asked twice, for the noise floor.
        adjudications: file of the labels that people gave; None = the one in the user's cache.
        progress: shows what is going on.

    Raises:
        FeatherweightError: a case file, a plug-in or a ledger that cannot be used.
    """
    one = SafetyParent(parent, policy, out, judge, again, adjudications, progress or Progress())
    return one.section(child, out)


def _reordered(cases: CaseSet) -> CaseSet:
    order = list(cases)
    random.Random(0).shuffle(order)
    return CaseSet(cases.name, tuple(order))
