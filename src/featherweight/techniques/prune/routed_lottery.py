"""Routing the lottery: one sparse mask a domain over one set of shared weights, chosen by the tag of a request.

Domains are those of the calibration text. Each gets a mask of the sparsity asked for, and the shared weights are then
trained under all masks in turn, each update moving only what its mask keeps (`train.masked`). arXiv 2601.22141. The
weights given are the start that every round rewinds to. The paper finds masks by training on each domain and dropping
the smallest weights (`score: trained`); a pretrained model moves so little in a few steps that all domains then drop
the same weights, so the default looks at weights times input norms on the domain's own text, as Wanda does.

What to know before using it. Zeros of single weights save no bytes in storage and no time on ordinary kernels, and
every domain costs one bit a weight: that is why the result is larger on disk than its parent. What it can buy is
quality at a number of non-zero weights, for runtimes that skip zeros, when the domain of a request is known. The
paper's own comparison leaves out the masks' bits and a single mask of equal storage; `masks: equal-storage` is that
control, `masks: shared` the single mask of equal sparsity. On the paper's image sets the route is the label itself;
routes here are domains, which is the honest case.

The result is a model of a class of ours (`models.routed_sparse`), written and opened like any other and exported as a
Hugging Face folder. With `fold` it is the ordinary sparse model of one domain. Quality is measured with the mask of
each row's domain, as if every tag were right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from featherweight.core.architecture import Reads
from featherweight.core.checkpoint import Stored
from featherweight.core.data import TokenSet
from featherweight.core.errors import RecipeError, nearest
from featherweight.core.inputs import InputMoments, set_weight, weight_of
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.sparsity import like, with_zeros
from featherweight.core.stream import stream
from featherweight.core.technique import Kind, Need, Paper, Technique, technique
from featherweight.measure.overlap import Overlap, count, overlap_of, size, trend_break, union_of
from featherweight.train.loop import Schedule, shuffled
from featherweight.train.masked import Loss, Masks, train_masked
from featherweight.train.next_token import mean_next_token_loss
from featherweight.train.tickets import Prune, equal_storage, full_masks, magnitude_pruning, prune_in_rounds, shrink


@technique
class RoutedLottery(Technique):
    """One sparse mask a domain over one set of shared weights, chosen by the request's tag; masks cost bytes."""

    kind: ClassVar[Kind] = Kind.PRUNE
    paper: ClassVar[Paper] = Paper("2601.22141", "Routing the Lottery: Adaptive Subnetworks for Heterogeneous Data")
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    sparsity: float = Field(0.5, ge=0, lt=1, description="share of zeros in every domain's mask")
    score: Literal["activation", "trained", "random"] = Field(
        "activation",
        description="what a mask keeps: the largest |weight| x input norm on the domain's text; the largest weights "
        "after training on it (the paper); or weights drawn by the seed (a control)",
    )
    compare: Literal["row", "matrix", "model"] = Field(
        "row", description="among which weights the lowest are looked for (the paper does not say); 'model' not with "
        "'activation', which decides matrix by matrix"
    )  # fmt: skip
    parts: Literal["ffn", "all"] = Field("ffn", description="masked linears: of the feed-forward layers, or all")
    rounds: int = Field(1, ge=1, description="pruning rounds, each dropping equally many weights (the paper: several)")
    ticket_steps: int = Field(20, ge=1, description="training steps of a round and domain, with score 'trained'")
    steps: int = Field(20, ge=0, description="joint training: batches of every domain; 0 leaves the weights as given")
    rows: int = Field(4, ge=1, description="rows of tokens a batch")
    learning_rate: float = Field(1e-4, gt=0, description="of Adam, without decay (the paper's)")
    dense: bool = Field(False, description="also train what has no mask (the paper does); the domains share it")
    masks: Literal["routed", "shared", "equal-storage"] = Field(
        "routed",
        description="'shared': one mask from all domains; 'equal-storage': one that keeps as many more weights as the "
        "union and the masks of 'routed' take bits; both give an ordinary model and are the controls",
    )
    stop_at: float | None = Field(
        None,
        gt=0,
        description="end the pruning before the round in which the masks' overlap leaves its trend by more than this "
        "(see measure.overlap): the paper's sign of collapse; None = go on to the sparsity",
    )
    fallback: str | None = Field(None, description="domain of input without a tag; None = the one with most rows")
    fold: str | None = Field(
        None,
        description="keep this domain only, as an ordinary sparse model; a model with masks already is only folded",
    )

    @field_validator("compare")
    @classmethod
    def _decidable(cls, value: str, info: ValidationInfo) -> str:
        if value == "model" and info.data.get("score") == "activation":
            raise ValueError("must be row or matrix with the score 'activation'")
        return value

    @property
    def runtimes(self) -> tuple[str, ...]:
        ordinary = self.fold is not None or self.masks != "routed" or self._changes_nothing
        return () if ordinary else ("compressed-tensors",)

    @property
    def _changes_nothing(self) -> bool:
        return self.sparsity == 0 and self.steps == 0

    def apply(self, model: Model, run: Run) -> Model:
        from featherweight.models.routed_checkpoint import PREFIX, fold, routed

        has_masks = model.architecture.variant == PREFIX
        if has_masks and self.fold is not None:
            return fold(model, self.fold)
        if self._changes_nothing:
            return model
        if has_masks:
            raise RecipeError(self.name, "is given a model that has masks already", "set fold to one of its domains")
        tokens = by_domain(run.tokens(self.name))
        fallback = self._named("fallback", tokens) or max(tokens, key=lambda each: tokens[each].ids.shape[0])
        folded = self._named("fold", tokens)
        lottery = _Lottery(self, model, run, tokens)
        if self.masks != "routed":
            return lottery.single()
        masks = lottery.tickets()
        weights = lottery.trained(list(masks.values()))
        result = routed(model, weights, masks, fallback)
        return result if folded is None else fold(result, folded)

    def _named(self, field: str, tokens: Mapping[str, TokenSet]) -> str | None:
        """The domain that a field names.

        Raises:
            RecipeError: the calibration text has no such domain.
        """
        name: str | None = getattr(self, field)
        if name is not None and name not in tokens:
            hint = nearest(name, tokens) or f"use one of {', '.join(tokens)}"
            raise RecipeError(f"{self.name}.{field} = {name!r}", "is no domain of the calibration text", hint)
        return name

    @classmethod
    def neutral(cls) -> RoutedLottery:
        return cls(sparsity=0, steps=0)


def by_domain(tokens: TokenSet) -> dict[str, TokenSet]:
    """The rows of each domain, in the order in which domains first appear."""
    names = dict.fromkeys(tokens.domains)
    return {name: tokens.rows([row for row, each in enumerate(tokens.domains) if each == name]) for name in names}


class _Lottery:
    """The subsets of one run: their losses, their masks, the weights they share."""

    def __init__(self, settings: RoutedLottery, model: Model, run: Run, tokens: Mapping[str, TokenSet]) -> None:
        self.settings, self.model, self.run, self.tokens = settings, model, run, tokens
        self.reads = [read for read in model.architecture.reads if settings.parts == "all" or _is_ffn(model, read)]
        blocks = range(model.architecture.blocks)
        self.names = [
            model.architecture.linear(i, each) for i in blocks for read in self.reads for each in read.linears
        ]
        self._module: Any = None

    def tickets(self) -> dict[str, Masks]:
        """One mask a domain."""
        rounds: list[Overlap] = []

        def broken(found: list[Masks]) -> bool:
            overlap = overlap_of(dict(zip(self.tokens, found, strict=True)))
            rounds.append(overlap)
            self.run.progress.say(
                f"{1 - overlap.density:.1%} zeros: Jaccard {overlap.jaccard:.2f}"
                f" (independent {overlap.independent:.2f}), union {overlap.union} of {size(found[0])} weights"
            )
            change = trend_break([each.excess for each in rounds])
            return self.settings.stop_at is not None and change > self.settings.stop_at

        masks = self._masks(list(self.tokens.values()), self.settings.sparsity, broken)
        self.run.note("overlap", [overlap.to_dict() for overlap in rounds])
        return dict(zip(self.tokens, masks, strict=True))

    def single(self) -> Model:
        """The control: one mask for all domains, in an ordinary model."""
        everything = self.run.tokens(self.settings.name)
        (mask,) = self._masks([everything], self._sparsity_of_single())
        # Joint training visits the domains in turn, as the routed one does.
        return self.model.with_changes(self.trained([mask] * len(self.tokens)))

    def _sparsity_of_single(self) -> float:
        if self.settings.masks == "shared":
            return self.settings.sparsity
        masks = list(self.tickets().values())
        weights = size(masks[0])
        bits = 8 * sum(self.model.entries[name].nbytes for name in self.names) / weights
        return 1 - equal_storage(count(union_of(masks)), weights, len(masks), bits) / weights

    def _masks(self, subsets: Sequence[TokenSet], sparsity: float, broken: Any = None) -> list[Masks]:
        full = full_masks({name: self.model.entries[name].shape for name in self.names})
        return prune_in_rounds(len(subsets), full, self._prune(subsets), sparsity, self.settings.rounds, broken)

    def _prune(self, subsets: Sequence[TokenSet]) -> Prune:
        settings = self.settings
        if settings.score == "trained":
            losses = [self._loss(tokens, f"tickets/{place}") for place, tokens in enumerate(subsets)]
            schedule = Schedule(settings.ticket_steps, settings.learning_rate, decay="none")
            return magnitude_pruning(self._start(), losses, schedule, settings.compare)
        if settings.score == "activation":
            return lambda subset, masks, sparsity: self._by_activation(subsets[subset], masks, sparsity)

        def drawn(subset: int, masks: Masks, sparsity: float) -> Masks:
            scores = {name: self.run.uniform(f"{subset}/{name}", each.shape) for name, each in masks.items()}
            return shrink(masks, scores, sparsity, settings.compare)

        return drawn

    def _by_activation(self, tokens: TokenSet, masks: Masks, sparsity: float) -> Masks:
        """Block by block, by |weight| x input norm; later blocks see the earlier ones pruned."""
        found: dict[str, torch.Tensor] = {}

        def act(index: int, block: Any, read: Reads, squares: torch.Tensor) -> None:
            for module in read.linears:
                name = self.model.architecture.linear(index, module)
                weight = weight_of(block, module)
                scores = {name: weight.abs() * squares.sqrt()}
                found.update(shrink({name: masks[name]}, scores, sparsity, self.settings.compare))
                set_weight(block, module, weight.masked_fill(~found[name], 0))

        with self.run.progress.track("pruning by weight and input", self.model.architecture.blocks) as advance:
            stream(self.model, tokens.ids, InputMoments(self.reads, act, diagonal=True), None, self.run.device, advance)
        return found

    def _start(self) -> dict[str, torch.Tensor]:
        """The given weights that are trained, float32: what every round rewinds to."""
        names = list(self.model.entries) if self.settings.dense else self.names
        return {name: self.model.tensor(name).to(self.run.device) for name in names}

    def _loss(self, tokens: TokenSet, purpose: str) -> Loss:
        """Mean next-token NLL of a batch of these rows."""
        if self._module is None:
            self._module = self.model.module().to(self.run.device)
        module, ids = self._module, tokens.ids.to(self.run.device)
        batch = shuffled(len(ids), self.settings.rows, self.run.generator(purpose))

        def loss(weights: Mapping[str, torch.Tensor], step: int) -> torch.Tensor:
            rows = ids[list(batch(step))]
            logits = torch.func.functional_call(module, dict(weights), (rows,), {"use_cache": False}).logits
            return mean_next_token_loss(logits, rows)

        return loss

    def trained(self, masks: Sequence[Masks]) -> dict[str, Stored]:
        """The shared weights after joint training, zero where no mask keeps them."""
        settings, union = self.settings, union_of(masks)
        if settings.steps == 0:
            return {name: with_zeros(self.model.stored(name), ~union[name]) for name in self.names}
        losses = [self._loss(tokens, f"joint/{name}") for name, tokens in self.tokens.items()]
        schedule = Schedule(settings.steps * len(masks), settings.learning_rate, decay="none")
        weights = train_masked(
            self._start(), masks, losses, schedule, label="joint training", progress=self.run.progress
        )
        kept = {
            name: each.cpu().masked_fill(~union[name], 0) if name in union else each.cpu()
            for name, each in weights.items()
        }
        return {name: like(self.model.stored(name), each) for name, each in kept.items()}


def _is_ffn(model: Model, read: Reads) -> bool:
    return any("ffn" in axis for each in read.linears for axis in model.architecture.linear_axes[each])
