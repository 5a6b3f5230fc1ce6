"""What the receipt of one answer holds: the case, the model, the draw, the answer, and everything said about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from featherweight.core.cases import Case
from featherweight.core.labels import Role
from featherweight.core.receipt import Receipt
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.connectors.facts import text_digest
from featherweight.measure.judges.judge import Ruling
from featherweight.measure.labelling import Labelled, Labeller

ANSWER = "answer"


@dataclass(frozen=True)
class Form:
    """What all receipts of a run have in common.

    Attributes:
        suite: digest of all cases.
        model: facts of who was asked.
        labeller: what labels the answers.
        store_text: whether answers are kept, or only their digests.
    """

    suite: str
    model: Mapping[str, Any]
    labeller: Labeller
    store_text: bool = True

    def content(
        self, run: int, role: Role, case: Case, generation: Generation, answer: Answer, labelled: Labelled | None
    ) -> dict[str, Any]:
        """The hashed part of one line; `labelled` is None where there is an error instead of an answer."""
        label = labelled.label if labelled else None
        return {
            "step": ANSWER, "run": run, "set": role.value, "case": case.id, "category": case.category,
            "item": case.item, "frame": case.frame, "prompt": case.digest, "suite": self.suite,
            "model": dict(self.model), "generation": generation.to_dict(),
            "output": None if answer.error else output_of(answer, self.store_text),
            "findings": self._findings(labelled), "judge": self._judge(labelled.ruling if labelled else None),
            "label": label, "outcome": role.outcome(label), "error": answer.error,
        }  # fmt: skip

    def _findings(self, labelled: Labelled | None) -> list[dict[str, Any]]:
        pairs = zip(self.labeller.detectors, labelled.findings, strict=True) if labelled else ()
        return [
            {"detector": detector.name, "version": detector.version, "label": found.label, "reason": found.reason}
            for detector, found in pairs
        ]

    def _judge(self, ruling: Ruling | None) -> dict[str, Any] | None:
        judge, judging = self.labeller.judge, self.labeller.judging
        if ruling is None or judge is None or judging is None:
            return None
        return {
            "name": judge.name, "version": judge.version, "model": identity_of(judging.facts), "label": ruling.label,
            "status": ruling.status, "error": ruling.error, "said": kept(ruling.text, self.store_text),
        }  # fmt: skip


def output_of(answer: Answer, store_text: bool) -> dict[str, Any]:
    """An answer as receipts keep it."""
    return {**kept(answer.text, store_text), "ended": answer.ended, "tokens": answer.tokens}


def kept(text: str, store_text: bool) -> dict[str, str]:
    """A text with its digest, or the digest alone."""
    digest = {"sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}
    return {**digest, "text": text} if store_text else digest


def identity_of(facts: Mapping[str, Any]) -> str:
    """One name for a model that is asked: its fingerprint, the digest of its file, or where it answers."""
    for key in ("fingerprint", "sha256"):
        if facts.get(key):
            return str(facts[key])
    return f"{facts['url']} {facts.get('model', '')}".strip() if facts.get("url") else text_digest(dict(facts))


def answers_in(receipts: Iterable[Receipt]) -> list[Receipt]:
    """The receipts that are of an answer."""
    return [receipt for receipt in receipts if receipt.content.get("step") == ANSWER]
