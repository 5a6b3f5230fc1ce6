"""Decides which candidates are run: cheapest knowledge first, each rejected as soon as that is safe.

Candidates come in the order of expected damage. One is rejected unrun when even a generous correction of its expected
damage leaves it behind the best measured one, and after a first look when it is surely worse on the same tokens. The
factors of `Doubt` are how far expectations were found to be off (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from featherweight.measure.quality import Quality, Scores, by_domain, summarize
from featherweight.plan.candidates import Candidate, Cut
from featherweight.plan.evaluate import Evaluator, surely_worse
from featherweight.plan.goal import Measured


@dataclass(frozen=True)
class Doubt:
    """By what factor expected damage may be too high."""

    cut: float = 3.0
    rounding: float = 1.3

    def least(self, candidate: Candidate, known: Sequence[Trial] = ()) -> float:
        """The least damage that is plausible, KL in nats.

        Args:
            candidate: not run yet.
            known: trials; what was measured of the same cut, less what its rounding may have done, replaces the doubt.
        """
        cuts = [
            trial.quality.kl - self.rounding * trial.candidate.round_kl
            for trial in known
            if trial.candidate.cut == candidate.cut != Cut() and trial.status == "measured" and trial.quality
        ]
        return max([candidate.cut_kl / self.cut, *cuts]) + candidate.round_kl / self.rounding


@dataclass
class Trial:
    """A candidate with what became of it.

    Attributes:
        status: "measured"; "first look" (rejected after the probe rows); "expected" (rejected unrun).
        reason: why, for people.
        memory: bytes of its file, exact once applied.
        quality: on all selection rows, or on the probe rows after a first look.
        latency: seconds a decoded token, where asked for.
    """

    candidate: Candidate
    status: str
    reason: str
    memory: int
    quality: Quality | None = None
    domains: dict[str, Quality] = field(default_factory=dict)
    latency: float | None = None

    def measured(self) -> Measured | None:
        """The numbers that a goal is tested with; None unless fully measured."""
        if self.status != "measured" or self.quality is None:
            return None
        return Measured(self.memory, self.quality.ratio_interval[0], self.latency)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {
            "name": self.candidate.name,
            "recipe": self.candidate.recipe.to_dict(),
            "label": f"{self.candidate.cut}, {self.candidate.rounding}",
            "status": self.status,
            "reason": self.reason,
            "memory": self.memory,
            "latency": self.latency,
            "expected": {"kl": self.candidate.kl, "cut": self.candidate.cut_kl, "rounding": self.candidate.round_kl},
            "quality": self.quality.to_dict() if self.quality else None,
            "domains": {name: each.to_dict() for name, each in self.domains.items()},
        }


class Search:
    """Runs candidates and keeps their trials.

    Args:
        evaluator: applies and measures.
        doubt: how far expectations may be off.
    """

    def __init__(self, evaluator: Evaluator, doubt: Doubt | None = None) -> None:
        self.evaluator = evaluator
        self.doubt = doubt or Doubt()
        self.trials: list[Trial] = []

    def climb(self, candidates: Sequence[Candidate]) -> Trial | None:
        """Tries candidates of one size, least expected damage first; returns the best measured one."""
        best: Trial | None = None
        for candidate in sorted(candidates, key=lambda each: each.kl):
            trial = self.attempt(candidate, best)
            if trial.status == "measured" and (best is None or _kl(trial) < _kl(best)):
                best = trial
        return best

    def attempt(self, candidate: Candidate, best: Trial | None = None) -> Trial:
        """One candidate, against the best one so far of its size."""
        least = self.doubt.least(candidate, self.trials)
        if best is not None and least >= _kl(best):
            reason = f"expected KL {candidate.kl:.3f}, at best {least:.3f}; the best has {_kl(best):.3f}"
            return self._keep(Trial(candidate, "expected", reason, candidate.memory))
        look, memory = self._first_look(candidate)
        if best is not None:
            rival = self.evaluator.first_look(best.candidate.recipe)
            if surely_worse(look, rival, self.evaluator.run.seed):
                reason = f"surely worse than the best on the same {look.kl.size} tokens"
                return self._keep(Trial(candidate, "first look", reason, memory, summarize(look)))
        return self._keep(self._measure(candidate, memory))

    def vary(self, candidate: Candidate, best: Trial) -> Trial:
        """A variation of the best candidate: measured in full only if its first look is better."""
        look, memory = self._first_look(candidate)
        if look.kl.mean() >= self.evaluator.first_look(best.candidate.recipe).kl.mean():
            reason = f"no better than the best on the same {look.kl.size} tokens"
            return self._keep(Trial(candidate, "first look", reason, memory, summarize(look)))
        return self._keep(self._measure(candidate, memory))

    def _first_look(self, candidate: Candidate) -> tuple[Scores, int]:
        self.evaluator.run.progress.say(f"trying {candidate.cut}, {candidate.rounding}: {candidate.recipe}")
        return self.evaluator.first_look(candidate.recipe), self.evaluator.memory(candidate.recipe)

    def _measure(self, candidate: Candidate, memory: int) -> Trial:
        scores = self.evaluator.full(candidate.recipe)
        return Trial(
            candidate,
            "measured",
            f"measured on {scores.kl.size} tokens",
            memory,
            summarize(scores),
            by_domain(scores),
            self.evaluator.seconds(candidate.recipe),
        )

    def _keep(self, trial: Trial) -> Trial:
        self.trials.append(trial)
        progress = self.evaluator.run.progress
        if trial.quality is not None:
            progress.say(f"  {trial.status}: quality {trial.quality.ratio:.3f}, KL {trial.quality.kl:.4f}")
        return trial


def _kl(trial: Trial) -> float:
    assert trial.quality is not None
    return trial.quality.kl
