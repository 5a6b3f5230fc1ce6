"""Calibration rows written anew: each sample is put to a writer as a question, an expert picks the best of its answers.

The winners go into the form in which the target sees text when it serves, and fill rows of the same number and length
as before, so that old and new rows compare at equal tokens. Every sample is recorded with where it comes from. Which
writer and which expert is the caller's business.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from featherweight.core.data import TokenSet, packed
from featherweight.core.errors import DataError
from featherweight.core.lazy import torch
from featherweight.core.run import Run
from featherweight.core.sampling import Draw
from featherweight.core.template import ServingForm, Unfit
from featherweight.core.writers import Writer


@dataclass(frozen=True)
class Candidate:
    """One answer to one sample.

    Attributes:
        question, answer: texts.
        ids: both as the target would read them; empty when they do not fit its form.
        start: index of the answer's first token.
        unfit: why they do not fit.
    """

    question: str
    answer: str
    ids: tuple[int, ...] = ()
    start: int = 0
    unfit: str = ""


Expert = Callable[[Sequence[Candidate]], list[float]]
"""Scores of candidates, each by itself: higher is better."""


@dataclass(frozen=True)
class Manner:
    """How a sample becomes new ones.

    Attributes:
        candidates: answers a sample, of which the best one stays.
        draw: how tokens are drawn.
        share: of a row's tokens that are put to the writer; the answer may take the rest.
        instruction: what a chat model is asked, with `{sample}` where the sample's text goes.
        normalise: put winners into the target's serving form and drop those that do not fit it.
        rounds: how often all samples are gone through, at most, until the rows are full.
        stream: names the random draws, so that two sets of one seed differ.
    """

    candidates: int = 4
    draw: Draw = field(default_factory=lambda: Draw(0.7, 0.9))
    share: float = 0.25
    instruction: str = "{sample}"
    normalise: bool = True
    rounds: int = 4
    stream: str = "regenerated"


@dataclass(frozen=True)
class Regenerated:
    """New rows with the account of them.

    Attributes:
        tokens: as many rows of the same length as before.
        samples: one record a sample that is in the rows.
        dropped: number of winners that were left out, by reason.
    """

    tokens: TokenSet
    samples: list[dict[str, Any]]
    dropped: dict[str, int]


def regenerate(
    tokens: TokenSet, tokenizer: Any, writer: Writer | None, expert: Expert, manner: Manner, run: Run
) -> Regenerated:
    """Writes calibration rows anew.

    Args:
        tokens: the rows to start from.
        tokenizer: the target's.
        writer: who answers; None = the samples go on as they did, the control.
        expert: scores answers.
        manner: how.
        run: seed, progress, store.

    Raises:
        DataError: the writer wrote too little to fill the rows.
    """
    work = _Work(tokens, ServingForm(tokenizer), writer, expert, manner, run)
    for turn in range(manner.rounds):
        work.go_through(turn)
        made = work.fill()
        if made is not None:
            return made
    found = sum(len(each.ids) for each in work.kept)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(work.dropped.items())) or "none"
    raise DataError(
        f"senior {writer.name if writer else 'original'}",
        f"wrote {found} usable tokens of the {tokens.count} needed in {manner.rounds} rounds (left out: {reasons})",
        "allow more rounds, or choose a senior that writes more",
    )


class _Work:
    """The samples so far."""

    def __init__(
        self, tokens: TokenSet, form: ServingForm, writer: Writer | None, expert: Expert, manner: Manner, run: Run
    ) -> None:
        self.tokens, self.form, self.writer, self.expert = tokens, form, writer, expert
        self.manner, self.run = manner, run
        self.length = tokens.ids.shape[1]
        self.asked = max(1, round(manner.share * self.length))
        self.kept: list[Candidate] = []
        self.samples: list[dict[str, Any]] = []
        self.dropped: dict[str, int] = {}

    def go_through(self, turn: int) -> None:
        """One more answer to every sample: the best of its group."""
        questions = [self._question(row) for row in self.tokens.ids.tolist()]
        draws, scores = [], []
        for index in range(self.manner.candidates):
            answers = self._answers(questions, turn, index)
            # Draw by draw, so that the scores of the first ones do not depend on how many follow.
            pairs = zip(questions, answers, strict=True)
            draws.append([self._candidate(row, question, answer) for row, (question, answer) in enumerate(pairs)])
            scores.append(self.expert(draws[-1]))
        for row in range(len(questions)):
            ranked = [-math.inf if math.isnan(each[row]) else each[row] for each in scores]
            best = ranked.index(max(ranked))
            self._keep(draws[best][row], row, turn, best, ranked[best])

    def _question(self, row: list[int]) -> str:
        """What the writer is given of a row: its beginning, inside the instruction for one that expects questions."""
        text = self._text(row[: self.asked])
        return self.manner.instruction.replace("{sample}", text) if self.writer and self.writer.chat else text

    def _text(self, ids: list[int]) -> str:
        return str(self.form.tokenizer.decode(ids, skip_special_tokens=True))

    def _answers(self, questions: list[str], turn: int, index: int) -> list[str]:
        """One answer a question, kept in the run's store; without a writer, how the rows went on."""
        if self.writer is None:
            return [self._text(row[self.asked :]) for row in self.tokens.ids.tolist()]
        writer, manner, room = self.writer, self.manner, self.length - self.asked
        purpose = f"{manner.stream}/{turn}/{index}"
        facts = {
            "writer": dict(writer.facts), "questions": questions, "tokens": room, "purpose": purpose,
            "draw": [manner.draw.temperature, manner.draw.top_p], "seed": self.run.seed,
        }  # fmt: skip
        written = self.run.store.json(
            "written", facts, lambda: writer.write(questions, room, manner.draw, self.run, purpose)
        )
        return [str(each) for each in written]

    def _candidate(self, row: int, question: str, answer: str) -> Candidate:
        """An answer as the target would read it behind its question."""
        if not self.manner.normalise:
            return self._as_it_is(self.tokens.ids[row].tolist(), question, answer)
        try:
            ids = self.form.fit(question, answer, self.length)
        except Unfit as unfit:
            return Candidate(question, answer, unfit=str(unfit))
        start = self.form.answer_start(question, ids)
        if start >= len(ids):
            return Candidate(question, answer, unfit="the question fills the row")
        return Candidate(question, answer, ids, start)

    def _as_it_is(self, row: list[int], question: str, answer: str) -> Candidate:
        """The row's own beginning with the answer behind it, in tokens; nothing is cleaned or left out."""
        if self.writer is None:
            return Candidate(question, answer, tuple(row), self.asked)
        ids = self.form.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return Candidate(question, answer, (*row[: self.asked], *ids)[: self.length], self.asked)

    def _keep(self, candidate: Candidate, row: int, turn: int, index: int, score: float) -> None:
        """Takes a winner with the record of where it comes from, or counts why it is left out."""
        if not candidate.ids:
            self.dropped[candidate.unfit] = self.dropped.get(candidate.unfit, 0) + 1
            return
        source = self.tokens.rows([row])
        self.kept.append(candidate)
        self.samples.append({
            "source": hashlib.sha256(source.ids.numpy().tobytes()).hexdigest()[:16], "row": row,
            "domain": source.domains[0], "generator": self.writer.name if self.writer else "original",
            "licence": self.writer.licence if self.writer else "that of the source",
            "seed": self.run.seed, "draw": f"{self.manner.stream}/{turn}/{index}",
            "score": round(score, 6), "tokens": len(candidate.ids),
        })  # fmt: skip

    def fill(self) -> Regenerated | None:
        """The rows, with domain and document of the sample that each starts with; None where samples are too few."""
        taken = iter(self.kept)
        end = self.form.tokenizer.eos_token_id if self.manner.normalise and not self.form.chat else None
        pieces = packed((each.ids for each in taken), self.length, end)
        made = list(itertools.islice(pieces, len(self.tokens.documents)))
        if len(made) < len(self.tokens.documents):
            return None
        used = len(self.kept) - len(list(taken))
        origins = [self.samples[start]["row"] for _, start in made]
        rows = TokenSet(
            torch.tensor([ids for ids, _ in made]),
            tuple(self.tokens.domains[row] for row in origins),
            tuple(self.tokens.documents[row] for row in origins),
        )
        return Regenerated(rows, self.samples[:used], dict(sorted(self.dropped.items())))
