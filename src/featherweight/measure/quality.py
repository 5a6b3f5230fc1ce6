"""Quality of a child against its parent on the same tokens: perplexity ratio, KL divergence, top-1 agreement.

The parent is kept as its final hidden states (a few hundred numbers a token instead of a vocabulary of logits): its
exact logits come back with one matrix product, so any number of candidates is compared without running it again.
Intervals are bootstrap intervals over documents, paired: parent and child are resampled together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.data import TokenSet
from featherweight.core.lazy import np, torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.stream import head_weight, stream
from featherweight.measure.divergence import Divergence

_LOGITS, _PART = 1 << 20, 2048  # logits in memory at once, 4 MB; tokens of the vocabulary that a part has
RESAMPLES = 2000
_ARRAYS = ("parent_nll", "child_nll", "kl", "agree")


@dataclass(frozen=True)
class Scores:
    """What a child does token by token; every array is float32 [rows, tokens - 1] (the last token predicts nothing).

    Attributes:
        parent_nll, child_nll: negative log-likelihood of the next token, nats.
        kl: KL(parent || child) of the next-token distribution, nats.
        agree: 1 where both give the same most likely token.
        tokens: the rows that were measured.
    """

    parent_nll: np.ndarray
    child_nll: np.ndarray
    kl: np.ndarray
    agree: np.ndarray
    tokens: TokenSet

    def rows(self, chosen: Sequence[int]) -> Scores:
        """Some of the rows."""
        some = list(chosen)
        return Scores(
            self.parent_nll[some], self.child_nll[some], self.kl[some], self.agree[some], self.tokens.rows(some)
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """The arrays by name, for a store."""
        return {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], tokens: TokenSet) -> Scores:
        """Reads what `tensors` gives."""
        parent_nll, child_nll, kl, agree = (tensors[name].numpy() for name in _ARRAYS)
        return cls(parent_nll, child_nll, kl, agree, tokens)


@dataclass(frozen=True)
class Quality:
    """Numbers of a child relative to its parent, with 95 % bootstrap intervals (low, high).

    Attributes:
        ratio: parent perplexity / child perplexity; 1 = as good.
        kl: mean KL divergence, nats a token.
        agreement: share of tokens with the same most likely next token.
        parent_perplexity, child_perplexity: over all measured tokens.
        tokens, documents: how much was measured.
    """

    ratio: float
    ratio_interval: tuple[float, float]
    kl: float
    kl_interval: tuple[float, float]
    agreement: float
    agreement_interval: tuple[float, float]
    parent_perplexity: float
    child_perplexity: float
    tokens: int
    documents: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.__dict__.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Quality:
        """Reads what `to_dict` writes."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**fields)


def hidden_states(model: Model, tokens: TokenSet, run: Run, advance: Callable[[], None] | None = None) -> torch.Tensor:
    """Final hidden states of a model, float32 [rows, tokens, hidden], kept in the run's store."""
    facts = {"model": model.fingerprint, "tokens": tokens.digest}
    made = run.store.tensors("hidden", facts, lambda: {"hidden": _stream(model, tokens, run, advance).cpu()})
    return made["hidden"]


def _stream(model: Model, tokens: TokenSet, run: Run, advance: Callable[[], None] | None) -> torch.Tensor:
    """Final hidden states; a model with masks by domain computes each row with those of the row's domain."""
    if not model.architecture.variant:
        return stream(model, tokens.ids, device=run.device, advance=advance)
    from featherweight.models.routed_checkpoint import fold_known

    parts: dict[int, torch.Tensor] = {}
    for domain in dict.fromkeys(tokens.domains):
        rows = [row for row, each in enumerate(tokens.domains) if each == domain]
        hidden = stream(fold_known(model, domain), tokens.ids[rows], device=run.device)
        parts.update(zip(rows, hidden, strict=True))
    return torch.stack([parts[row] for row in range(len(tokens.domains))])


def compare(parent: Model, child: Model, tokens: TokenSet, run: Run) -> Scores:
    """Token-by-token comparison of a child with its parent."""
    reference = hidden_states(parent, tokens, run)
    if child.fingerprint == parent.fingerprint:
        return score(reference, reference, head_weight(parent), head_weight(parent), tokens)
    with run.progress.track("measuring quality", child.architecture.blocks) as advance:
        hidden = _stream(child, tokens, run, advance)
    return score(reference, hidden, head_weight(parent), head_weight(child), tokens)


def compare_once(parent: Model, child: Model, tokens: TokenSet, run: Run) -> Scores:
    """The same, kept in the run's store under the fingerprints of both models."""
    facts = {"parent": parent.fingerprint, "child": child.fingerprint, "tokens": tokens.digest}
    return Scores.of(
        run.store.tensors("compared", facts, lambda: compare(parent, child, tokens, run).tensors()), tokens
    )


def score(
    parent_hidden: torch.Tensor,
    child_hidden: torch.Tensor,
    parent_head: torch.Tensor,
    child_head: torch.Tensor,
    tokens: TokenSet,
) -> Scores:
    """Scores from final hidden states, [rows, tokens, hidden], and head matrices, [vocabulary, hidden]."""
    device = child_hidden.device
    theirs, ours = parent_head.to(device), child_head.to(device)

    def part(first: int) -> Part:
        cut = slice(first, first + _PART)
        return Part(first, _PART, lambda hidden: hidden @ theirs[cut].T, lambda hidden: hidden @ ours[cut].T)

    return score_parts(parent_hidden, child_hidden, map(part, range(0, len(ours), _PART)), tokens)


@dataclass(frozen=True)
class Part:
    """A part of the vocabulary.

    Attributes:
        first: its first token.
        size: how many it has.
        of_parent: from final hidden states, [tokens, hidden], to logits, float32 [tokens, part].
        of_child: the same of the child.
    """

    first: int
    size: int
    of_parent: Callable[[torch.Tensor], torch.Tensor]
    of_child: Callable[[torch.Tensor], torch.Tensor]


def score_parts(
    parent_hidden: torch.Tensor, child_hidden: torch.Tensor, parts: Iterable[Part], tokens: TokenSet
) -> Scores:
    """Scores from final hidden states, part of the vocabulary after part: logits exist for one part and a few tokens.

    Args:
        parent_hidden: [rows, tokens, hidden].
        child_hidden: the same of the child; on its device everything is computed.
        parts: in order, without gaps; each is used once.
        tokens: the rows.
    """
    rows, length = tokens.ids.shape
    ours = child_hidden[:, :-1].reshape(-1, child_hidden.shape[-1])
    theirs = parent_hidden[:, :-1].reshape(-1, parent_hidden.shape[-1]).to(ours.device)
    with torch.inference_mode():
        sums = Divergence(tokens.ids[:, 1:].reshape(-1).to(ours.device))
        for part in parts:
            step = max(32, _LOGITS // part.size)
            for first in range(0, len(ours), step):
                some = slice(first, first + step)
                sums.add(some, part.first, part.of_parent(theirs[some]), part.of_child(ours[some]))
        found = (sums.parent.nll(), sums.child.nll(), sums.kl(), sums.agree())
    parent_nll, child_nll, kl, agree = (each.float().reshape(rows, length - 1).cpu().numpy() for each in found)
    return Scores(parent_nll, child_nll, kl, agree, tokens)


def summarize(scores: Scores, seed: int = 0) -> Quality:
    """One set of numbers over all tokens, with intervals."""
    groups, weights = _documents(scores.tokens)
    columns = np.stack(
        [_totals(array, groups) for array in (scores.parent_nll, scores.child_nll, scores.kl, scores.agree)]
    )
    per_row = scores.kl.shape[1]
    counts = weights * per_row
    draws = resampled(len(counts), seed, RESAMPLES)
    sampled = (draws @ columns.T) / (draws @ counts)[:, None]
    ratio = np.exp(sampled[:, 0] - sampled[:, 1])
    parent, child, kl, agreement = columns.sum(1) / counts.sum()
    return Quality(
        ratio=math.exp(parent - child),
        ratio_interval=interval_of(ratio),
        kl=float(kl),
        kl_interval=interval_of(sampled[:, 2]),
        agreement=float(agreement),
        agreement_interval=interval_of(sampled[:, 3]),
        parent_perplexity=math.exp(parent),
        child_perplexity=math.exp(child),
        tokens=int(scores.kl.size),
        documents=len(counts),
    )


def by_domain(scores: Scores, seed: int = 0) -> dict[str, Quality]:
    """The same numbers for each domain by itself."""
    result = {}
    for domain in dict.fromkeys(scores.tokens.domains):
        rows = [row for row, each in enumerate(scores.tokens.domains) if each == domain]
        result[domain] = summarize(scores.rows(rows), seed)
    return result


def resampled_means(values: np.ndarray, tokens: TokenSet, seed: int = 0, size: int = RESAMPLES) -> np.ndarray:
    """Bootstrap means over documents of one value a row, float64 [size]."""
    groups, counts = _documents(tokens)
    draws = resampled(len(counts), seed, size)
    means: np.ndarray = (draws @ np.bincount(groups, weights=values)) / (draws @ counts)
    return means


def resampled_mean(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over items; a single number where all are equal."""
    draws = resampled(len(values), 0, RESAMPLES)
    return interval_of(draws @ np.asarray(values) / len(values))


def resampled(documents: int, seed: int, size: int) -> np.ndarray:
    """How often each document is drawn, [size, documents]."""
    return np.random.default_rng(seed).multinomial(documents, np.full(documents, 1 / documents), size=size)


def _documents(tokens: TokenSet) -> tuple[np.ndarray, np.ndarray]:
    """Index of each row's document, and the number of rows of each document."""
    _, groups, weights = np.unique(np.asarray(tokens.documents), return_inverse=True, return_counts=True)
    return groups, weights


def _totals(array: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(groups, weights=array.sum(1, dtype=np.float64))


def interval_of(values: np.ndarray, tail: float = 0.025) -> tuple[float, float]:
    """The middle of bootstrap values, 95 % of them unless another share is cut off at each end."""
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
