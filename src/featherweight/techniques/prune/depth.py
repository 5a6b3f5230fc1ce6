"""Depth pruning: whole blocks go, those whose output points where their input did.

A block's importance is 1 - cos(its input, its output), averaged over all calibration tokens, measured once on the whole
model; the least important blocks are dropped and nothing is retrained. The result is an ordinary, shorter model.
arXiv 2403.03853 calls it block influence. It sees directions only: a block that only rescales counts as doing nothing.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from featherweight.core.errors import RecipeError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.technique import Kind, Need, Paper, Technique, technique
from featherweight.measure.ordering import block_importance


@technique
class Depth(Technique):
    """Drops the blocks that change the direction of the hidden states least."""

    kind: ClassVar[Kind] = Kind.PRUNE
    paper: ClassVar[Paper] = Paper(
        "2403.03853", "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    drop: int = Field(1, ge=0, description="how many blocks to drop")
    blocks: tuple[int, ...] = Field((), description="these blocks, counted from 0, instead of a choice by score")
    keep_first: int = Field(0, ge=0, description="blocks at the beginning that are never chosen")
    keep_last: int = Field(0, ge=0, description="blocks at the end that are never chosen")
    score: Literal["cosine", "random", "reversed"] = Field(
        "cosine", description="'random' and 'reversed' (the most important go) are the controls"
    )

    def apply(self, model: Model, run: Run) -> Model:
        dropped = self.blocks or self._chosen(model, run)
        unknown = [block for block in dropped if not 0 <= block < model.architecture.blocks]
        if unknown:
            raise RecipeError(
                f"depth.blocks = {list(self.blocks)}", f"the model has no block {unknown[0]}",
                f"use 0 to {model.architecture.blocks - 1}",
            )  # fmt: skip
        return slice_model(model, Keep(blocks=[i for i in range(model.architecture.blocks) if i not in dropped]))

    def _chosen(self, model: Model, run: Run) -> list[int]:
        """The blocks with the lowest scores, ascending."""
        candidates = list(range(model.architecture.blocks))[self.keep_first :]
        candidates = candidates[: len(candidates) - self.keep_last] if self.keep_last else candidates
        if self.drop > len(candidates) or self.drop == model.architecture.blocks:
            raise RecipeError(
                f"depth.drop = {self.drop}",
                f"only {len(candidates)} of the {model.architecture.blocks} blocks may be dropped, and one must stay",
                "drop fewer",
            )
        if self.drop == 0:
            return []
        scores = self._scores(model, run)
        return sorted(sorted(candidates, key=lambda block: float(scores[block]))[: self.drop])

    def _scores(self, model: Model, run: Run) -> torch.Tensor:
        if self.score == "random":
            return run.uniform(self.name, (model.architecture.blocks,))
        importance = block_importance(model, run)
        run.progress.say("block importance: " + " ".join(f"{value:.3f}" for value in importance.tolist()))
        return -importance if self.score == "reversed" else importance

    @classmethod
    def neutral(cls) -> Depth:
        return cls(drop=0)
