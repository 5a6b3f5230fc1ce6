"""What a measured workload recommends for a small text encoder: context, vocabulary, width, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.measure.workload import ContextUse, Workload

TRUNCATED = 0.01  # share of the prompts that may be cut
_MULTIPLE = 64  # attention heads are usually this wide


@dataclass(frozen=True)
class Recommendation:
    """Sizes of a student.

    Attributes:
        context: tokens of its position table.
        vocabulary: ids to keep rows for; None = all.
        width: least width of its states; None where the outputs could not be measured.
        reasons: a sentence for each.
    """

    context: int
    vocabulary: int | None
    width: int | None
    reasons: tuple[str, ...]


def recommend(workload: Workload, truncated: float = TRUNCATED) -> Recommendation:
    """Sizes for a workload.

    Args:
        workload: what was measured.
        truncated: share of prompts that may be cut.
    """
    use = context_for(workload.contexts, truncated)
    vocabulary, why_vocabulary = _vocabulary(workload)
    width, why_width = _width(workload)
    why_context = (
        f"context {use.context}: cuts {use.truncated:.1%} of the prompts; "
        f"{use.padding:.0%} of a full row would be padding"
    )
    return Recommendation(use.context, vocabulary, width, (why_context, why_vocabulary, why_width))


def context_for(contexts: Sequence[ContextUse], truncated: float = TRUNCATED) -> ContextUse:
    """The shortest of some contexts that cuts at most a share of the prompts, or else the longest."""
    fitting = [use for use in contexts if use.truncated <= truncated]
    return min(fitting or contexts, key=lambda use: use.context if fitting else -use.context)


def _vocabulary(workload: Workload) -> tuple[int | None, str]:
    use = workload.vocabulary
    held = workload.table_parameters / max(workload.parameters, 1)
    share = f"the token table is {held:.0%} of the parameters"
    if use.share > 0.5:
        return None, f"vocabulary: all, {use.share:.0%} of the ids are in use"
    return use.used, f"vocabulary {use.used} of {use.size} ids: {share}; expect {use.unseen:.2%} of tokens to be new"


def _width(workload: Workload) -> tuple[int | None, str]:
    """A linear map ends the student, so its outputs span at most its width; that is a floor and no promise."""
    outputs = workload.outputs
    if outputs is None:
        return None, "width: the log holds too few different tokens to measure the outputs"
    width = min(-(-outputs.linear // _MULTIPLE) * _MULTIPLE, outputs.width)
    return width, (
        f"width {width} at least: {outputs.linear} principal components hold 99 % of the outputs' variance "
        f"(intrinsic dimension {outputs.two_nn:.0f}, which bounds no encoder's size)"
    )
