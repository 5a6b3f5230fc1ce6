"""Magnitude pruning: the smallest weights become zero; no data needed. The control of every other pruner.

Saves no bytes (see `core.sparsity`).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from featherweight.core.model import Model
from featherweight.core.run import Rewrite, Run
from featherweight.core.sparsity import Sparsifier, with_zeros
from featherweight.core.technique import Paper, technique


@technique
class Magnitude(Sparsifier):
    """Sets the smallest weights to zero; saves no bytes, a control and an experiment on quality."""

    paper: ClassVar[Paper] = Paper(
        "1506.02626", "Learning both Weights and Connections for Efficient Neural Networks (its pruning step)"
    )

    score: Literal["magnitude", "random"] = Field(
        "magnitude", description="'random' drops weights drawn by the seed: the control"
    )
    compare: Literal["row", "matrix"] = Field("matrix", description="among which weights the smallest are looked for")

    def apply(self, model: Model, run: Run) -> Model:
        if self.sparsity == 0:
            return model
        result = Rewrite(model, run)
        names = model.architecture.linears()
        with run.progress.track("magnitude pruning", len(names)) as advance:
            for name in names:
                weight = model.tensor(name)
                self.require_fit(weight.shape[1], name)
                scores = weight.abs() if self.score == "magnitude" else run.uniform(name, weight.shape)
                result[name] = with_zeros(model.stored(name), self.dropped(scores, self.compare))
                advance()
        return result.finish()

    @classmethod
    def neutral(cls) -> Magnitude:
        return cls(sparsity=0)
