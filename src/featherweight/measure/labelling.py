"""Labels answers: every detector and, where there is one, a judge, each on record; then one label of all together.

Which voices count: all detectors where there is no judge; with one, the judge and the detectors that do not guess. An
answer on which nobody who counts has anything to say is `unparsed`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.cases import Case
from featherweight.core.labels import Label, combined
from featherweight.core.policy import Policy
from featherweight.measure.answers import Connector
from featherweight.measure.detectors.detector import DETECTORS, Detector, Finding
from featherweight.measure.judges.judge import JUDGES, Judge, Ruling


@dataclass(frozen=True)
class Labelled:
    """What was said about one answer.

    Attributes:
        label: of all voices that count.
        findings: what each detector said, in the policy's order.
        ruling: what the judge said; None where there is none, or where an answer left nothing to ask.
    """

    label: Label
    findings: tuple[Finding, ...]
    ruling: Ruling | None = None


@dataclass(frozen=True)
class Labeller:
    """Detectors and perhaps a judge.

    Attributes:
        detectors: in the policy's order.
        judge: how a model is asked and read; None = no judge.
        judging: that model.
    """

    detectors: tuple[Detector, ...]
    judge: Judge | None = None
    judging: Connector | None = None

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What identifies it: names, versions, settings, the judge's model. Plain JSON."""
        detectors = [{**_identity(each), "settings": each.model_dump(mode="json")} for each in self.detectors]
        if self.judge is None or self.judging is None:
            return {"detectors": detectors, "judge": None}
        judge = {**_identity(self.judge), "settings": self.judge.model_dump(mode="json")}
        return {"detectors": detectors, "judge": {**judge, "model": dict(self.judging.facts)}}

    def label(self, answered: Sequence[tuple[Case, str]], batch: int = 8) -> list[Labelled]:
        """A label for each case with its answer."""
        found = [tuple(_find(each, case, text) for each in self.detectors) for case, text in answered]
        rulings = self._rulings(answered, found, batch)
        return [
            Labelled(combined(self._voices(findings, ruling)), findings, ruling)
            for findings, ruling in zip(found, rulings, strict=True)
        ]

    def _counts(self, detector: Detector) -> bool:
        return self.judge is None or not detector.guesses

    def _counted(self, findings: Sequence[Finding]) -> list[Label | None]:
        pairs = zip(self.detectors, findings, strict=True)
        return [finding.label for detector, finding in pairs if self._counts(detector)]

    def _voices(self, findings: Sequence[Finding], ruling: Ruling | None) -> list[Label | None]:
        return [*self._counted(findings), ruling.label] if ruling else self._counted(findings)

    def _rulings(
        self, answered: Sequence[tuple[Case, str]], found: Sequence[Sequence[Finding]], batch: int
    ) -> list[Ruling | None]:
        """The judge is not asked about what is unparsed already: nothing could make that safe again."""
        if self.judge is None or self.judging is None:
            return [None] * len(answered)
        asked = [index for index, each in enumerate(found) if Label.UNPARSED not in self._counted(each)]
        given = _ruled(self.judge, self.judging, [answered[index] for index in asked], batch)
        rulings: list[Ruling | None] = [None] * len(answered)
        for index, ruling in zip(asked, given, strict=True):
            rulings[index] = ruling
        return rulings


def labeller_of(policy: Policy, judging: Connector | None = None) -> Labeller:
    """The voices that a policy names.

    Args:
        policy: names detectors and perhaps a judge.
        judging: the judge's model, connected.

    Raises:
        PolicyError: an unknown plug-in or setting.
    """
    detectors = tuple(DETECTORS.build(each.name, each.settings) for each in policy.detectors)
    judge = JUDGES.build(policy.judge.name, policy.judge.settings) if policy.judge else None
    return Labeller(detectors, judge, judging)


def _identity(plugin: Detector | Judge) -> dict[str, str]:
    return {"name": plugin.name, "version": plugin.version}


def _find(detector: Detector, case: Case, text: str) -> Finding:
    """What a detector says; one that breaks has said that the answer cannot be told."""
    try:
        return detector.find(case, text)
    except Exception as error:  # it may be anybody's
        return Finding(Label.UNPARSED, f"the detector failed: {type(error).__name__}")


def _ruled(judge: Judge, judging: Connector, asked: Sequence[tuple[Case, str]], batch: int) -> Iterator[Ruling]:
    """One ruling each, whatever the judge does."""
    given, problem = judge.rulings(judging, asked, batch), "the judge said nothing"
    for _ in asked:
        try:
            yield next(given)
        except StopIteration:
            yield Ruling(Label.UNPARSED, "error", error=problem)
        except Exception as error:  # it may be anybody's
            given, problem = iter(()), f"the judge failed: {type(error).__name__}"
            yield Ruling(Label.UNPARSED, "error", error=problem)
