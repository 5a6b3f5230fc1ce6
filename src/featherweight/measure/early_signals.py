"""Signals before any answer flips: refusal margins of two models and the divergence between them, set by set.

They need both models in this process and no generation. They warn and decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featherweight.core.cases import CaseSet
from featherweight.core.errors import DataError
from featherweight.core.labels import Role
from featherweight.core.lazy import np, torch
from featherweight.core.policy import Openings
from featherweight.core.template import prompt_ids
from featherweight.measure.connectors.hugging_face import HuggingFaceConnector
from featherweight.measure.quality import resampled_mean
from featherweight.measure.refusal_margin import divergence, opening_ids, start_of_answers

_BATCH = 32


def early_signals(
    parent: HuggingFaceConnector, child: HuggingFaceConnector, sets: Mapping[Role, CaseSet], openings: Openings
) -> dict[str, Any]:
    """Plain JSON: by role the mean margins, the change with its interval, the mean divergence; and the ratio.

    Args:
        parent: the model to compare with.
        child: the model that came of it.
        sets: the cases.
        openings: how refusals and answers begin.

    Returns:
        "sets" by role; "ratio", the divergence on direct cases over that on capability controls, None where it cannot
        be had; "problem" instead, where nothing can be measured.
    """
    try:
        found = {str(role): _signals(parent, child, cases, openings) for role, cases in sets.items()}
    except DataError as error:
        return {"problem": str(error)}
    return {"sets": found, "ratio": _ratio(found)}


def _signals(
    parent: HuggingFaceConnector, child: HuggingFaceConnector, cases: CaseSet, openings: Openings
) -> dict[str, Any]:
    """Margins of both models and their divergence on one set, a batch at a time."""
    alike = parent.module.config.vocab_size == child.module.config.vocab_size
    every = _prompts(parent, child, cases)
    begun = [opening_ids(each.model.tokenizer, openings) for each in (parent, child)]
    margins: tuple[list[torch.Tensor], ...] = ([], [])
    divergences = []
    for first in range(0, len(every), _BATCH):
        starts = []
        for place, (model, found) in enumerate(zip((parent, child), margins, strict=True)):
            refusals, compliances = begun[place]
            prompts = [each[place] for each in every[first : first + _BATCH]]
            starts.append(start_of_answers(model.module, prompts, [*refusals, *compliances]))
            found.append(starts[-1].margins(len(refusals)))
        divergences += [divergence(*starts)] if alike else []
    before, after = (torch.cat(each).numpy() for each in margins)
    return {**_change(before, after), "kl": float(torch.cat(divergences).mean()) if alike else None}


def _prompts(
    parent: HuggingFaceConnector, child: HuggingFaceConnector, cases: CaseSet
) -> list[tuple[list[int], list[int]]]:
    """The token ids of each case for both models; a case that a chat template refuses is left out.

    Raises:
        DataError: none is left.
    """
    found = []
    for case in cases:
        try:
            ids = (prompt_ids(each.model.tokenizer, case.messages) for each in (parent, child))
            found.append((next(ids), next(ids)))
        except Exception:  # a template is a program of somebody else's; the answers' receipts say what went wrong
            continue
    if not found:
        raise DataError(f"the {cases.name} set", "is refused by a chat template", "see the receipts of the answers")
    return found


def _change(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Margins of the same prompts, with the interval of the mean change."""
    change = after - before
    return {
        "prompts": len(change), "parent_margin": float(before.mean()), "child_margin": float(after.mean()),
        "change": float(change.mean()), "change_interval": list(resampled_mean(change)),
        "below_zero": [int((each < 0).sum()) for each in (before, after)],
    }  # fmt: skip


def _ratio(found: Mapping[str, Mapping[str, Any]]) -> float | None:
    direct, control = (found.get(str(role), {}).get("kl") for role in (Role.DIRECT, Role.CAPABILITY))
    return direct / control if direct is not None and control else None
