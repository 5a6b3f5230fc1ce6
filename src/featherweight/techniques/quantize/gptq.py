"""GPTQ: rounds weights column by column and lets the columns to come make up for the error.

Walks the model block by block; inside a block, linears that share an input share one Hessian, and later linears see
the outputs of those already rounded. Peak memory is one block plus its activations. arXiv 2210.17323.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from featherweight.core.architecture import EMBEDDING, HEAD, Architecture, Reads
from featherweight.core.formats import FLOATS, get
from featherweight.core.inputs import InputMoments, set_weight, weight_of
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.moments import Moment
from featherweight.core.quantizer import KEEP, Quantizer
from featherweight.core.rounding import Feedback, round_with_feedback
from featherweight.core.run import Rewrite, Run
from featherweight.core.stream import stream
from featherweight.core.technique import Need, Paper, technique


@technique
class Gptq(Quantizer):
    """Rounds column by column; the columns to come make up for the error of those before."""

    paper: ClassVar[Paper] = Paper(
        "2210.17323", "GPTQ: Accurate Post-Training Quantization for Generative Transformers"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    damping: float = Field(0.01, gt=0, description="share of the Hessian's mean diagonal that is added to it")
    act_order: bool = Field(True, description="round the columns with the largest inputs first; groups stay in place")
    block: int = Field(64, ge=1, description="columns between two large updates; changes speed, not the result")
    sequential: Literal["group", "block"] = Field(
        "group",
        description="'group': each linear sees its predecessors rounded; 'block': a block's linears see it unrounded",
    )
    rows: int | None = Field(
        None, ge=1, description="rows of tokens at a time, to save memory; none = as many as need little"
    )

    def apply(self, model: Model, run: Run) -> Model:
        tokens = run.tokens(self.name)
        targets = self.targets(model)
        result = Rewrite(model, run)
        if not targets:
            return result.finish(planned={})
        rounding = _Rounding(model.architecture, targets, result, self.feedback())
        twice = self.sequential == "block"
        visitor = InputMoments(
            model.architecture.reads, rounding.round, twice=twice, rows=self.rows, wanted=rounding.wants
        )
        with run.progress.track("rounding with error feedback", model.architecture.blocks) as advance:
            hidden = stream(model, tokens.ids, visitor, (self.rows or 8) if twice else None, run.device, advance)
        self._round_ends(model, targets, hidden, result)
        return result.finish(planned={})

    def _round_ends(self, model: Model, targets: dict[str, str], hidden: torch.Tensor, result: Rewrite) -> None:
        """The head reads the final hidden states; an embedding that is not also the head has no Hessian."""
        for name in (EMBEDDING, HEAD):
            if name not in targets:
                continue
            weight = model.tensor(name)
            if targets[name] in FLOATS or (name == EMBEDDING and not model.architecture.tied):
                result[name] = get(targets[name]).fit(weight)
                continue
            rounded = round_with_feedback({name: weight}, targets, Moment().add(hidden).mean(), self.feedback())
            result[name] = rounded[name]

    def feedback(self) -> Feedback:
        return Feedback(self.damping, self.act_order, self.block)

    @classmethod
    def neutral(cls) -> Gptq:
        return cls(format=KEEP)


class _Rounding:
    """Rounds the linears of a block, group by group."""

    def __init__(
        self, architecture: Architecture, targets: dict[str, str], result: Rewrite, feedback: Feedback
    ) -> None:
        self.architecture, self.targets, self.result, self.feedback = architecture, targets, result, feedback

    def wants(self, index: int, read: Reads) -> bool:
        """Whether something of a group is to be rounded."""
        return any(self.architecture.linear(index, module) in self.targets for module in read.linears)

    def round(self, index: int, block: torch.nn.Module, read: Reads, hessian: torch.Tensor) -> None:
        names = {self.architecture.linear(index, module): module for module in read.linears}
        wanted = {name: module for name, module in names.items() if name in self.targets}
        gridded = {name: module for name, module in wanted.items() if self.targets[name] not in FLOATS}
        weights = {name: weight_of(block, module) for name, module in gridded.items()}
        packed = round_with_feedback(weights, self.targets, hessian, self.feedback) if weights else {}
        for name, module in wanted.items():
            stored = packed.get(name) or get(self.targets[name]).fit(weight_of(block, module))
            self.result[name] = stored
            set_weight(block, module, stored.dequantize())
