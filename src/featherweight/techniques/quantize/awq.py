"""AWQ: scales up the channels with large inputs before rounding, and scales their producers down.

For each group of linears that share an input, the scale is s = importance^alpha with the alpha of least output error
among a few; dividing the input by s is folded into the norm or the linear before it, so the function stays the same
until weights are rounded. arXiv 2306.00978.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from featherweight.core.architecture import Reads
from featherweight.core.folding import Rescaling, gather, spread
from featherweight.core.formats import FLOATS, get
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.moments import Moment, importance_of
from featherweight.core.quantizer import KEEP, Quantizer
from featherweight.core.run import Rewrite, Run
from featherweight.core.stream import Visitor, stream
from featherweight.core.technique import Need, Paper, technique

_SAMPLED_ROWS = 48  # rows are rounded independently, so some of them tell how well a scale does for all


@technique
class Awq(Quantizer):
    """Scales up the channels with large inputs before rounding and folds the inverse into what comes before."""

    paper: ClassVar[Paper] = Paper("2306.00978", "AWQ: Activation-aware Weight Quantization")
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    steps: int = Field(20, ge=0, description="values of alpha tried between 0 and 1; 0 = no scaling, which is imatrix")
    round: bool = Field(True, description="round after scaling; False leaves that to a quantizer that follows")

    def apply(self, model: Model, run: Run) -> Model:
        tokens = run.tokens(self.name)
        targets = self.targets(model)
        if not targets:
            return model.with_changes(planned={})
        visitor = _ScaleSearch(model, targets, self.steps)
        with run.progress.track("searching activation-aware scales", model.architecture.blocks) as advance:
            stream(model, tokens.ids, visitor, device=run.device, advance=advance)
        scaled = Rescaling(model)
        for (index, read), scale in visitor.scales.items():
            scaled.divide_input(index, read, scale)
        folded = scaled.finish()
        return self._rounded(folded, targets, visitor.importances, run) if self.round else folded

    def _rounded(
        self, model: Model, targets: Mapping[str, str], importances: Mapping[str, torch.Tensor], run: Run
    ) -> Model:
        result = Rewrite(model, run)
        with run.progress.track("rounding to nearest", len(targets)) as advance:
            for name, target in targets.items():
                result[name] = get(target).fit(model.tensor(name), importances.get(name))
                advance()
        return result.finish(planned={})

    @classmethod
    def neutral(cls) -> Awq:
        return cls(format=KEEP)


class _ScaleSearch(Visitor):
    """Finds the scale of every group of linears on the unrounded model.

    Attributes:
        scales: [input channels] by block and group; groups that are best left alone are missing.
        importances: relative mean square of each linear's scaled input, by parameter name.
    """

    def __init__(self, model: Model, targets: Mapping[str, str], steps: int) -> None:
        self.model, self.targets, self.steps = model, targets, steps
        self.scales: dict[tuple[int, Reads], torch.Tensor] = {}
        self.importances: dict[str, torch.Tensor] = {}

    def enter(self, index: int, block: torch.nn.Module) -> None:
        for read in self.model.architecture.reads:
            names = [self.model.architecture.linear(index, module) for module in read.linears]
            wanted = [name for name in names if self.targets.get(name, "F32") not in FLOATS]
            if wanted:
                block.get_submodule(read.linears[0]).register_forward_pre_hook(self._hook(index, read, wanted))

    def _hook(self, index: int, read: Reads, names: list[str]) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._search(index, read, names, Moment().add(inputs[0]).mean())

        return hook

    def _search(self, index: int, read: Reads, names: list[str], moment: torch.Tensor) -> None:
        architecture = self.model.architecture
        squares = moment.diagonal()
        channels = gather(architecture, read, squares).clamp(min=1e-12).sqrt()
        weights = {name: self._sampled(self.model.tensor(name)) for name in names}
        best, chosen = float("inf"), torch.ones_like(squares)
        for step in range(self.steps + 1):
            scale = channels ** (step / max(self.steps, 1))
            scale = scale / (scale.max() * scale.min()).sqrt()
            columns = spread(architecture, read, scale)
            error = self._error(weights, columns, moment)
            if error < best:
                best, chosen = error, columns
                if step:
                    self.scales[index, read] = scale
        for name in names:
            self.importances[name] = importance_of(squares / chosen.square())

    @staticmethod
    def _sampled(weight: torch.Tensor) -> torch.Tensor:
        return weight[:: max(1, weight.shape[0] // _SAMPLED_ROWS)].contiguous()

    def _error(self, weights: Mapping[str, torch.Tensor], columns: torch.Tensor, moment: torch.Tensor) -> float:
        """Squared error of the outputs of all linears of a group, a token."""
        importance = importance_of(moment.diagonal() / columns.square())
        total = 0.0
        for name, weight in weights.items():
            rounded = get(self.targets[name]).fit(weight * columns, importance).dequantize()
            error = rounded / columns - weight
            total += float(((error @ moment) * error).sum())
        return total
