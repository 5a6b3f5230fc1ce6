"""How a log of prompts uses a text encoder: lengths, context, vocabulary, positions, outputs. Numbers only.

What to make of them (a context length, a vocabulary, a width) is decided in `plan.component`. After the anatomy of
SAM3-LiteText (arXiv 2602.12173).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.host import STATES_BATCH, Component
from featherweight.core.lazy import torch
from featherweight.core.progress import Progress
from featherweight.core.prompts import token_ids
from featherweight.measure.manifold import Manifold, manifold

CONTEXTS = (4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 77, 96, 128, 192, 256, 384, 512)
_SAMPLE = 4000  # vectors: a distance matrix of them takes seconds


@dataclass(frozen=True)
class ContextUse:
    """What a context length would do to the logged prompts.

    Attributes:
        context: tokens of a row.
        density: mean share of a row that holds tokens of the prompt.
        padding: the rest.
        truncated: share of prompts that are longer.
        lost: share of all tokens that are cut off.
    """

    context: int
    density: float
    padding: float
    truncated: float
    lost: float


@dataclass(frozen=True)
class VocabularyUse:
    """Which ids the logged prompts use.

    Attributes:
        size: ids of the tokenizer or rows of the table, whichever is more.
        used: different ids that occur.
        share: used / size.
        unseen: share of tokens that occur once: Good and Turing's estimate of the chance that the next token is new.
    """

    size: int
    used: int
    share: float
    unseen: float


@dataclass(frozen=True)
class PositionUse:
    """How alike the rows of the position table are: mean cosine between different rows.

    Attributes:
        rows: of the table.
        used: rows that the longest logged prompt reaches.
        head: among the rows that 95 % of prompts stay within.
        tail: among the rows behind them; None where there are fewer than two.
    """

    rows: int
    used: int
    head: float | None
    tail: float | None


@dataclass(frozen=True)
class Workload:
    """How a component is used by a log.

    Attributes:
        prompts, distinct: prompts in the log, different ones among them.
        mean, median, most_use, longest: tokens of a prompt with special tokens; `most_use` is the 95th percentile.
        contexts: what each candidate context would do.
        vocabulary: ids in use.
        positions: the position table; None where positions are not learned.
        outputs: dimensions of the component's token states; None where there are too few.
        parameters, table_parameters: of the component, and of its token table.
    """

    prompts: int
    distinct: int
    mean: float
    median: int
    most_use: int
    longest: int
    contexts: tuple[ContextUse, ...]
    vocabulary: VocabularyUse
    positions: PositionUse | None
    outputs: Manifold | None
    parameters: int
    table_parameters: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def workload(
    component: Component, prompts: Sequence[str], generator: torch.Generator, progress: Progress | None = None
) -> Workload:
    """Measures how prompts use a component.

    Args:
        component: the encoder.
        prompts: as logged, repetitions included: they are part of the use.
        generator: draws the prompts whose outputs are looked at.
        progress: shows how far the outputs are.
    """
    rows = token_ids(prompts, component.host.tokenizer)
    lengths = sorted(len(row) for row in rows)
    table = component.embedding
    return Workload(
        prompts=len(prompts), distinct=len(set(prompts)), mean=sum(lengths) / len(lengths),
        median=quantile(lengths, 0.5), most_use=quantile(lengths, 0.95), longest=lengths[-1],
        contexts=context_uses(lengths, component.context),
        vocabulary=vocabulary_use(rows, component.vocabulary),
        positions=position_use(component.position_table, lengths),
        outputs=manifold(_sample(component, prompts, generator, progress or Progress())),
        parameters=component.parameters, table_parameters=0 if table is None else table.numel(),
    )  # fmt: skip


def quantile(lengths: Sequence[int], share: float) -> int:
    """The least of sorted lengths that at least `share` of them do not exceed."""
    # 0.55 * 100 is a little more than 55 in floating point, and must not count as 56.
    return lengths[max(math.ceil(share * len(lengths) - 1e-9), 1) - 1]


def context_uses(lengths: Sequence[int], limit: int) -> tuple[ContextUse, ...]:
    """What each candidate context up to `limit` would do to prompts of these lengths."""
    return tuple(context_use(lengths, context) for context in candidates(lengths, limit))


def candidates(lengths: Sequence[int], limit: int) -> list[int]:
    """Context lengths worth a look: usual ones from the shortest prompt to the longest, and the component's own."""
    enough = next((context for context in CONTEXTS if context >= max(lengths)), max(lengths))
    usual = [context for context in CONTEXTS if min(lengths) <= context <= min(enough, limit)]
    return sorted({*usual, min(limit, max(*CONTEXTS, max(lengths)))})


def context_use(lengths: Sequence[int], context: int) -> ContextUse:
    """Density, padding and truncation of prompts of these lengths in rows of `context` tokens."""
    held = sum(min(length, context) for length in lengths)
    density = held / (len(lengths) * context)
    truncated = sum(length > context for length in lengths) / len(lengths)
    return ContextUse(context, density, 1 - density, truncated, 1 - held / max(sum(lengths), 1))


def vocabulary_use(rows: Sequence[Sequence[int]], size: int) -> VocabularyUse:
    """Use of a vocabulary of `size` ids by rows of ids."""
    counts = Counter(token for row in rows for token in row)
    once = sum(count == 1 for count in counts.values())
    return VocabularyUse(size, len(counts), len(counts) / size, once / max(sum(counts.values()), 1))


def position_use(table: torch.Tensor | None, lengths: Sequence[int]) -> PositionUse | None:
    """Redundancy of a position table [rows, width] under prompts of these lengths."""
    if table is None:
        return None
    edge = min(quantile(sorted(lengths), 0.95), len(table))
    return PositionUse(
        len(table), min(max(lengths), len(table)), mutual_cosine(table[:edge]), mutual_cosine(table[edge:])
    )


def mutual_cosine(rows: torch.Tensor) -> float | None:
    """Mean cosine between different rows [count, width]; None for fewer than two."""
    if len(rows) < 2:
        return None
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    among = unit @ unit.T
    return float((among.sum() - among.trace()) / (len(rows) * (len(rows) - 1)))


def _sample(
    component: Component, prompts: Sequence[str], generator: torch.Generator, progress: Progress
) -> torch.Tensor:
    """Token states of different prompts, at most some thousands, [tokens, width]."""
    distinct = sorted(set(prompts))
    order = torch.randperm(len(distinct), generator=generator).tolist()
    rows = token_ids([distinct[index] for index in order[:_SAMPLE]], component.host.tokenizer, component.context)
    enough, total = 0, 0
    while enough < len(rows) and total < _SAMPLE:
        total += len(rows[enough])
        enough += 1
    with progress.track("looking at outputs", -(-enough // STATES_BATCH)) as advance:
        return torch.cat(component.states(rows[:enough], advance=advance))[:_SAMPLE]
