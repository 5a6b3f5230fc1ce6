"""Wanda: a weight counts by its size times the norm of what it multiplies, compared within each output row.

score_ij = |W_ij| * ||x_j||_2 with x_j the j-th input over the calibration tokens. No weight is updated. Block by block;
each group of linears that shares an input sees its predecessors pruned. arXiv 2306.11695. Saves no bytes (see
`core.sparsity`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from featherweight.core.architecture import Reads
from featherweight.core.checkpoint import values
from featherweight.core.inputs import InputMoments, set_weight, weight_of
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Rewrite, Run
from featherweight.core.sparsity import Sparsifier, with_zeros
from featherweight.core.stream import stream
from featherweight.core.technique import Need, Paper, technique


@technique
class Wanda(Sparsifier):
    """Sets weights to zero by size times input norm, row by row; saves no bytes, an experiment on quality."""

    paper: ClassVar[Paper] = Paper("2306.11695", "A Simple and Effective Pruning Approach for Large Language Models")
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    score: Literal["activation", "random", "reversed"] = Field(
        "activation", description="'random' and 'reversed' (the highest scores go) are the controls"
    )
    compare: Literal["row", "matrix"] = Field("row", description="among which weights the lowest are looked for")
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

        def act(index: int, block: Any, read: Reads, squares: torch.Tensor) -> None:
            for module in read.linears:
                name = architecture.linear(index, module)
                self.require_fit(squares.numel(), name)
                scores = self.scores(weight_of(block, module), squares, name, run)
                stored = with_zeros(model.stored(name), self.dropped(scores, self.compare))
                result[name] = stored
                set_weight(block, module, values(stored))

        visitor = InputMoments(architecture.reads, act, diagonal=True, twice=self.rows is not None)
        with run.progress.track("pruning by weight and input", architecture.blocks) as advance:
            stream(model, tokens.ids, visitor, self.rows, run.device, advance)
        return result.finish()

    def scores(self, weight: torch.Tensor, squares: torch.Tensor, name: str, run: Run) -> torch.Tensor:
        """The lowest scores go; `squares` are the mean squares of the columns' inputs."""
        if self.score == "random":
            return run.uniform(name, weight.shape)
        scores = weight.abs() * squares.sqrt()
        return -scores if self.score == "reversed" else scores

    @classmethod
    def neutral(cls) -> Wanda:
        return cls(sparsity=0)
