"""Where the answers of a server part from those of the file it is said to serve, and by how much the file minds.

Both were drawn greedily for the same conversations. At the first token that differs, the file is shown what both wrote
before and says how much likelier its own token is there: a runtime that computes in other number formats turns near
ties (some tenths of a nat), while another model, another chat template or another sampler writes what the file would
not. Texts are compared without white space at their ends, which servers strip. Cost: one forward pass a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.cases import Case
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.sampling import turn_ends
from featherweight.core.template import prompt_ids
from featherweight.measure.answers import Answer


@dataclass(frozen=True)
class Difference:
    """The first token in which two answers to one conversation differ.

    Attributes:
        case: its id.
        position: number of the token, from 0.
        file, served: the tokens as text; empty = the turn ends there.
        gap: how much likelier the file holds its own token than the served one, nats; below 0 where it does not.
    """

    case: str
    position: int
    file: str
    served: str
    gap: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(self.__dict__)


def differences(
    model: Model, cases: Sequence[Case], file: Sequence[Answer], served: Sequence[Answer]
) -> list[Difference]:
    """The first difference of every conversation whose answers differ; those without two answers are left out.

    Args:
        model: the file.
        cases: the conversations.
        file: its answers.
        served: the server's.
    """
    found, module = [], None
    for case, one, other in zip(cases, file, served, strict=True):
        if one.error or other.error or _same(one, other):
            continue
        module = module or model.module()
        found.append(_difference(model, module, case, one.text.strip(), other.text.strip()))
    return found


def _same(one: Answer, other: Answer) -> bool:
    """Whether two answers say the same; where both were cut off, as far as the shorter one goes."""
    short, long = sorted((one.text.strip(), other.text.strip()), key=len)
    cut = one.ended is False and other.ended is False and bool(short)
    return short == long or (cut and long.startswith(short))


def _difference(model: Model, module: Any, case: Case, file: str, served: str) -> Difference:
    tokenizer = model.tokenizer
    ours, theirs = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (file, served))
    shared = next(
        (index for index, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
        min(len(ours), len(theirs)),
    )
    end = min(turn_ends(model), default=0)
    one, other = (ids[shared] if shared < len(ids) else end for ids in (ours, theirs))
    prompt = prompt_ids(tokenizer, case.messages)
    with torch.inference_mode():
        ids = torch.tensor([prompt + ours[:shared]], device=module.device)
        known = module(input_ids=ids, logits_to_keep=1).logits[0, -1].float().log_softmax(0)
    texts = ["" if token == end else str(tokenizer.decode([token])) for token in (one, other)]
    return Difference(case.id, shared, texts[0], texts[1], float(known[one] - known[other]))
