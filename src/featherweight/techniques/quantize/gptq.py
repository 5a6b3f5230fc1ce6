"""GPTQ: rounds weights column by column and lets the columns to come make up for the error.

Walks the model block by block; inside a block, linears that share an input share one Hessian, and later linears see
the outputs of those already rounded. Peak memory is one block plus its activations. arXiv 2210.17323.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from featherweight.core.architecture import EMBEDDING, HEAD, Reads
from featherweight.core.formats import FLOATS, get
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.quantizer import KEEP, Quantizer
from featherweight.core.rounding import Feedback, round_with_feedback
from featherweight.core.run import Rewrite, Run
from featherweight.core.stream import Visitor, stream
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
        description="'group': each linear sees its predecessors rounded, all rows at once; "
        "'block': a block's linears see the unrounded block, `rows` rows at a time, in less memory",
    )
    rows: int = Field(8, ge=1, description="rows of tokens at a time when sequential is 'block'")

    def apply(self, model: Model, run: Run) -> Model:
        tokens = run.tokens(self.name)
        targets = self.targets(model)
        result = Rewrite(model, run)
        if not targets:
            return result.finish(planned={})
        visitor = _Rounding(model, targets, result, self)
        rows = self.rows if self.sequential == "block" else None
        with run.progress.track("rounding with error feedback", model.architecture.blocks) as advance:
            hidden = stream(model, tokens.ids, visitor, rows, run.device, advance)
        self._round_ends(model, targets, hidden.flatten(0, 1), result)
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
            rounded = round_with_feedback({name: weight}, targets, second_moment(hidden), self.feedback())
            result[name] = rounded[name]

    def feedback(self) -> Feedback:
        return Feedback(self.damping, self.act_order, self.block)

    @classmethod
    def neutral(cls) -> Gptq:
        return cls(format=KEEP)


def second_moment(inputs: torch.Tensor) -> torch.Tensor:
    """Mean of x x^T over the rows of [tokens, columns]."""
    return (inputs.T @ inputs / inputs.shape[0]).cpu()


class _Rounding(Visitor):
    """Rounds the linears of each block as their inputs arrive, or between two runs of the block."""

    def __init__(self, model: Model, targets: dict[str, str], result: Rewrite, settings: Gptq) -> None:
        self.architecture, self.targets, self.result = model.architecture, targets, result
        self.settings = settings
        self.twice = settings.sequential == "block"
        self.sums: dict[Reads, tuple[torch.Tensor, int]] = {}
        self.hooks: list[Any] = []

    def enter(self, index: int, block: torch.nn.Module) -> None:
        self.sums.clear()
        for read in self.architecture.reads:
            if any(self.architecture.linear(index, module) in self.targets for module in read.linears):
                first = block.get_submodule(read.linears[0])
                self.hooks.append(first.register_forward_pre_hook(self._hook(index, block, read)))

    def _hook(self, index: int, block: torch.nn.Module, read: Reads) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            flat = inputs[0].flatten(0, 1)
            if self.twice:
                total, count = self.sums.get(read, (0, 0))
                self.sums[read] = (total + second_moment(flat) * flat.shape[0], count + flat.shape[0])
            else:
                self._round(index, block, read, second_moment(flat))

        return hook

    def between(self, index: int, block: torch.nn.Module) -> None:
        for read, (total, count) in self.sums.items():
            self._round(index, block, read, total / count)
        self._unhook()

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        self._unhook()

    def _unhook(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def _round(self, index: int, block: torch.nn.Module, read: Reads, hessian: torch.Tensor) -> None:
        names = {self.architecture.linear(index, module): module for module in read.linears}
        wanted = {name: module for name, module in names.items() if name in self.targets}
        gridded = {name: module for name, module in wanted.items() if self.targets[name] not in FLOATS}
        weights = {name: _weight(block, module) for name, module in gridded.items()}
        packed = round_with_feedback(weights, self.targets, hessian, self.settings.feedback()) if weights else {}
        for name, module in wanted.items():
            stored = packed.get(name) or get(self.targets[name]).fit(_weight(block, module))
            self.result[name] = stored
            values = stored.dequantize().to(block.get_parameter(f"{module}.weight").device)
            # A new parameter: the old one may share its memory with the model that was given.
            block.get_submodule(module).weight = torch.nn.Parameter(values, requires_grad=False)


def _weight(block: torch.nn.Module, module: str) -> torch.Tensor:
    return block.get_parameter(f"{module}.weight").float().cpu()
