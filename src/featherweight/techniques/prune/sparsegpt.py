"""SparseGPT: drops weights by the loss they cost and lets the columns to come make up for it.

Walks the columns of W in blocks. With H = mean(x x^T) and H^-1 = U^T U, a weight scores W_ij^2 / U_jj^2, the loss that
dropping it costs after the best update of the columns after it; the share with the lowest scores in the block goes, and
each dropped weight's error is passed on as in `core.second_order`. With an n:m pattern the choice is made within each m
columns, when they are reached, on weights that carry the errors so far. Inside a block of the model, linears that share
an input share H, and later ones see the earlier pruned. arXiv 2301.00774. Saves no bytes (see `core.sparsity`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from featherweight.core.architecture import Reads
from featherweight.core.checkpoint import Stored, values
from featherweight.core.formats import Packed
from featherweight.core.inputs import InputMoments, set_weight, weight_of
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Rewrite, Run
from featherweight.core.second_order import inverse_factor, sweep
from featherweight.core.sparsity import UNSTRUCTURED, Sparsifier, like, nonzeros, with_zeros
from featherweight.core.stream import stream
from featherweight.core.technique import Need, Paper, technique


@technique
class SparseGpt(Sparsifier):
    """Sets weights to zero and updates the rest to make up for it; saves no bytes, an experiment on quality."""

    name: ClassVar[str] = "sparsegpt"
    paper: ClassVar[Paper] = Paper(
        "2301.00774", "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    score: Literal["obs", "random"] = Field(
        "obs", description="'random' drops weights drawn by the seed, with the same updates: the control"
    )
    compare: Literal["row", "matrix"] = Field(
        "matrix", description="whether the lowest are looked for in each row of a block of columns, or in all its rows"
    )
    block: int = Field(128, ge=1, description="columns whose weights are chosen together; a multiple of m with n:m")
    damping: float = Field(0.01, gt=0, description="share of the Hessian's mean diagonal that is added to it")
    rows: int | None = Field(
        None,
        ge=1,
        description="rows of tokens at a time, in less memory; then a block's linears see the unpruned block",
    )

    def apply(self, model: Model, run: Run) -> Model:
        if self.sparsity == 0:
            return model
        tokens = run.tokens(self.name)
        architecture, result = model.architecture, Rewrite(model, run)

        def act(index: int, block: Any, read: Reads, hessian: torch.Tensor) -> None:
            factor = inverse_factor(hessian, self.damping)
            for module in read.linears:
                name = architecture.linear(index, module)
                self.require_fit(hessian.shape[0], name)
                pruned = self.pruned(weight_of(block, module), factor, run, name)
                stored = _stored(pruned, model.stored(name))
                result[name] = stored
                set_weight(block, module, values(stored))

        visitor = InputMoments(architecture.reads, act, twice=self.rows is not None)
        with run.progress.track("pruning with error feedback", architecture.blocks) as advance:
            stream(model, tokens.ids, visitor, self.rows, run.device, advance)
        return result.finish()

    def pruned(self, weight: torch.Tensor, factor: torch.Tensor, run: Run, name: str) -> torch.Tensor:
        """`weight` [rows, columns] with zeros and updates; `factor` is U of `inverse_factor`."""
        choice = _Choice(self, factor.diagonal(), run, name)
        width = 1 if self.pattern == UNSTRUCTURED else nonzeros(self.pattern)[1]
        block = max(self.block // width, 1) * width
        return sweep(weight.T.contiguous(), factor, choice.decide, block, choice.start).T.contiguous()

    @classmethod
    def neutral(cls) -> SparseGpt:
        return cls(sparsity=0)


class _Choice:
    """Chooses the weights to drop, a block of columns or m columns at a time, on their present values."""

    def __init__(self, settings: SparseGpt, diagonal: torch.Tensor, run: Run, name: str) -> None:
        self.settings, self.diagonal, self.run, self.name = settings, diagonal, run, name
        self.first = 0

    def start(self, first: int, columns: torch.Tensor) -> None:
        self.first, self.columns = first, columns
        self.dropped = torch.zeros(columns.shape, dtype=torch.bool)
        if self.settings.pattern == UNSTRUCTURED:
            self._choose(0, columns.shape[0])

    def decide(self, index: int, column: torch.Tensor) -> torch.Tensor:
        here = index - self.first
        if self.settings.pattern != UNSTRUCTURED:
            width = nonzeros(self.settings.pattern)[1]
            if here % width == 0:
                self._choose(here, here + width)
        return column.masked_fill(self.dropped[here], 0)

    def _choose(self, first: int, last: int) -> None:
        present = self.columns[first:last].T
        scores = (present / self.diagonal[self.first + first : self.first + last]).square()
        if self.settings.score == "random":
            scores = self.run.uniform(f"{self.name}/{self.first + first}", scores.shape)
        self.dropped[first:last] = self.settings.dropped(scores, self.settings.compare).T


def _stored(pruned: torch.Tensor, before: Stored) -> Stored:
    """The pruned values as `before` is stored; on a rounded format the zeros are put back where the grid has zero."""
    stored = like(before, pruned)
    return with_zeros(stored, pruned == 0) if isinstance(stored, Packed) else stored
