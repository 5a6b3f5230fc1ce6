"""Experts that score the answers of a writer: what the target itself finds likely, plain rules, a model as a judge.

Each gives numbers, higher is better; which answer is taken is decided elsewhere. A score depends on its candidate and
on the target or the judge, never on the other answers of the group.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.regenerate import Candidate, Expert
from featherweight.core.run import Run
from featherweight.core.sampling import BATCH, Draw
from featherweight.core.stream import head_weight, stream
from featherweight.core.writers import Writer

_WORST = -1e9  # of candidates without tokens: JSON has no minus infinity
_REFUSAL = re.compile(r"\b(i'?m sorry|i am sorry|i can'?t|i cannot|i am unable|i'?m unable|as an ai)\b", re.IGNORECASE)
_RATING = re.compile(r"\d+(?:\.\d+)?")
_HIGHEST = 10.0
_REPLY_TOKENS = 16
_JUDGE = (
    "Here is a question and an answer to it. Rate the answer from 1 (useless) to 10 (excellent) for correctness, "
    "clear reasoning and completeness. Reply with the number alone.\n\nQuestion:\n{question}\n\nAnswer:\n{answer}"
)


def likelihood(target: Model, run: Run) -> Expert:
    """Mean log-likelihood of the answer's tokens under the target, nats: how much it is what the target would write."""

    def score(candidates: Sequence[Candidate]) -> list[float]:
        found: list[float] = []
        for first in range(0, len(candidates), BATCH):
            found += _likelihoods(target, candidates[first : first + BATCH], run)
        return found

    return score


def _likelihoods(target: Model, candidates: Sequence[Candidate], run: Run) -> list[float]:
    """Of one batch, in one pass over the target."""
    usable = [each for each in candidates if _predictable(each)]
    if not usable:
        return [_WORST] * len(candidates)
    width = max(len(each.ids) for each in usable)
    # Padding on the right is seen by no token before it.
    ids = torch.tensor([[*each.ids, *[each.ids[-1]] * (width - len(each.ids))] for each in usable])
    hidden, head = stream(target, ids, device=run.device), head_weight(target).to(run.device)
    scores = iter([_mean_log(states, head, each) for states, each in zip(hidden, usable, strict=True)])
    return [next(scores) if _predictable(each) else _WORST for each in candidates]


def _predictable(candidate: Candidate) -> bool:
    """Whether there are tokens of an answer, and one before them to predict the first from."""
    return 0 < candidate.start < len(candidate.ids)


def _mean_log(states: torch.Tensor, head: torch.Tensor, candidate: Candidate) -> float:
    """Of one row's final hidden states, [tokens, hidden]."""
    answer = torch.tensor(candidate.ids[candidate.start :], device=states.device)
    logits = states[candidate.start - 1 : len(candidate.ids) - 1] @ head.T
    return -float(torch.nn.functional.cross_entropy(logits, answer))


def rules() -> Expert:
    """Share of five plain rules that an answer keeps, between 0 and 1.

    It is long enough, ends like a text, does not refuse, does not repeat itself, does not repeat the question.
    """
    return lambda candidates: [_rules_kept(each) for each in candidates]


def _rules_kept(candidate: Candidate) -> float:
    answer = candidate.answer.strip()
    if not answer:
        return 0.0
    words = answer.split()
    phrases = [tuple(words[index : index + 4]) for index in range(max(1, len(words) - 3))]
    marks = [
        min(len(words) / 20, 1.0),
        1.0 if answer[-1] in ".!?)\"'`}]:;" else 0.5,
        0.0 if _REFUSAL.search(answer[:120]) else 1.0,
        len(set(phrases)) / len(phrases),
        0.0 if candidate.question.strip() and candidate.question.strip() in answer else 1.0,
    ]
    return sum(marks) / len(marks)


def judge(writer: Writer, run: Run) -> Expert:
    """What a model says of each answer, 1 to 10; 0 where no number can be read from its reply."""

    def score(candidates: Sequence[Candidate]) -> list[float]:
        asked = [_JUDGE.replace("{question}", each.question).replace("{answer}", each.answer) for each in candidates]
        facts = {"judge": dict(writer.facts), "asked": asked, "seed": run.seed}
        replies = run.store.json(
            "judged", facts, lambda: writer.write(asked, _REPLY_TOKENS, Draw(temperature=0), run, "judge")
        )
        ratings = [_rating(str(each)) for each in replies]
        if not any(ratings):
            raise DataError(
                f"judge {writer.name}", f"rated none of {len(ratings)} answers (first reply: {replies[0]!r})",
                "choose a larger judge, or expert: rules or likelihood",
            )  # fmt: skip
        return ratings

    return score


def _rating(reply: str) -> float:
    """The first number of a reply, where it lies between 1 and 10."""
    found = _RATING.search(reply)
    value = float(found[0]) if found else 0.0
    return value if 1 <= value <= _HIGHEST else 0.0
