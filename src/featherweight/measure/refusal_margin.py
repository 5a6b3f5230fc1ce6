"""What a model would say first, without letting it say it: refusal margins and divergences at the start of an answer.

The margin of a prompt is logsumexp over some refusal openings of log p(opening | prompt), minus the same over some
compliance openings: above 0, the model rather refuses. An opening of several tokens is teacher-forced. It moves before
any answer flips, and costs one forward pass of the prompts and a short one for each longer opening. The divergence is
KL(parent || child) of the first token of the answer.

Openings are declared by whoever asks; a model that refuses in other words has a margin that says nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch
from featherweight.core.policy import Openings
from featherweight.core.sampling import left_padded, positions_of

Ids = Sequence[int]


def opening_ids(tokenizer: Any, openings: Openings) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Refusal and compliance openings as token ids; what a tokenizer cannot spell is left out.

    Of two openings of a side that begin alike the shorter one stays: it holds the other.

    Raises:
        DataError: a side has none that is left, or one begins like one of the other side.
    """
    refusals, compliances = (_distinct(tokenizer, texts) for texts in (openings.refuse, openings.comply))
    if not refusals or not compliances:
        raise DataError("openings", "leave no refusal or no compliance", "write some that this tokenizer can spell")
    if any(_alike(one, other) for one in refusals for other in compliances):
        raise DataError("openings", "of a refusal and of a compliance begin alike", "write the longer one out")
    return refusals, compliances


def _distinct(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    every = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    found: list[tuple[int, ...]] = []
    for ids in sorted(dict.fromkeys(every), key=len):
        if ids and tokenizer.unk_token_id not in ids and not any(_alike(ids, other) for other in found):
            found.append(ids)
    return found


def _alike(one: Ids, other: Ids) -> bool:
    return one[: len(other)] == other[: len(one)]


@dataclass(frozen=True)
class Start:
    """How a model would begin its answers.

    Attributes:
        first: log-probabilities of the first token, float64 [prompts, vocabulary].
        openings: log p(opening | prompt), float64 [prompts, openings].
    """

    first: torch.Tensor
    openings: torch.Tensor

    def margins(self, refusals: int) -> torch.Tensor:
        """Refusal margins in nats, [prompts]; the first `refusals` openings are those of refusals."""
        return self.openings[:, :refusals].logsumexp(1) - self.openings[:, refusals:].logsumexp(1)


@torch.inference_mode()
def start_of_answers(module: Any, prompts: Sequence[Ids], openings: Sequence[Ids]) -> Start:
    """One pass over prompts, which go through the model together, and a short one for each longer opening.

    Args:
        module: a causal language model of transformers.
        prompts: token ids.
        openings: token ids.
    """
    ids, mask = left_padded(prompts, module.device)
    longer = any(len(each) > 1 for each in openings)
    output = module(
        input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=longer, logits_to_keep=1
    )  # fmt: skip
    first = output.logits[:, -1].double().log_softmax(-1)
    found = []
    for opening in openings:
        total = first[:, opening[0]]
        if len(opening) > 1:
            total = total + _rest(module, copy.deepcopy(output.past_key_values), mask, opening)
        found.append(total)
    return Start(first.cpu(), torch.stack(found, 1).cpu())


def divergence(parent: Start, child: Start) -> torch.Tensor:
    """KL(parent || child) of the first token, nats, float64 [prompts]."""
    return (parent.first.exp() * (parent.first - child.first)).sum(-1).clamp(min=0)


def _rest(module: Any, cache: Any, mask: torch.Tensor, opening: Ids) -> torch.Tensor:
    """log p of the second and later tokens of an opening, [prompts]."""
    rows = len(mask)
    given = torch.tensor([list(opening[:-1])] * rows, device=mask.device)
    whole = torch.cat([mask, torch.ones_like(given)], 1)
    positions = positions_of(whole)[:, -given.shape[1] :]
    output = module(input_ids=given, attention_mask=whole, position_ids=positions, past_key_values=cache)
    wanted = torch.tensor([list(opening[1:])] * rows, device=mask.device)
    logs: torch.Tensor = output.logits.double().log_softmax(-1)
    return logs.gather(-1, wanted[..., None]).squeeze(-1).sum(1)
