"""Importance-weighted rounding: scales that favour the columns whose inputs are large.

What llama.cpp does with an importance matrix: each column's squared error is weighted by the mean square of its input,
measured on the unrounded model in one pass. No error feedback: GPTQ adds that.
"""

from __future__ import annotations

from typing import Any, ClassVar

from featherweight.core.architecture import EMBEDDING, HEAD
from featherweight.core.formats import get
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.moments import importance_of
from featherweight.core.quantizer import KEEP, Quantizer
from featherweight.core.run import Rewrite, Run
from featherweight.core.stream import Visitor, stream
from featherweight.core.technique import Need, Paper, technique


@technique
class Imatrix(Quantizer):
    """Rounds to nearest on scales fitted with each column's error weighted by its mean squared input."""

    paper: ClassVar[Paper] = Paper("", "Importance matrix of llama.cpp")
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    def apply(self, model: Model, run: Run) -> Model:
        tokens = run.tokens(self.name)
        targets = self.targets(model)
        result = Rewrite(model, run)
        if not targets:
            return result.finish(planned={})
        visitor = _Importances(model, targets, result)
        with run.progress.track("importance-weighted rounding", model.architecture.blocks) as advance:
            hidden = stream(model, tokens.ids, visitor, device=run.device, advance=advance)
        for name in (EMBEDDING, HEAD):
            if name in targets:
                reads_final = name == HEAD or model.architecture.tied
                importance = _importance(hidden.flatten(0, 1)) if reads_final else None
                result[name] = get(targets[name]).fit(model.tensor(name), importance)
        return result.finish(planned={})

    @classmethod
    def neutral(cls) -> Imatrix:
        return cls(format=KEEP)


def _importance(inputs: torch.Tensor) -> torch.Tensor:
    """Of the columns of [tokens, columns]."""
    return importance_of(inputs.square().mean(0)).cpu()


class _Importances(Visitor):
    """Rounds each linear from the importance of its input, while the unrounded block computes."""

    def __init__(self, model: Model, targets: dict[str, str], result: Rewrite) -> None:
        self.model, self.targets, self.result = model, targets, result

    def enter(self, index: int, block: torch.nn.Module) -> None:
        architecture = self.model.architecture
        for read in architecture.reads:
            names = [architecture.linear(index, module) for module in read.linears]
            wanted = [name for name in names if name in self.targets]
            if wanted:
                first = block.get_submodule(read.linears[0])
                first.register_forward_pre_hook(self._hook(wanted))

    def _hook(self, names: list[str]) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            importance = _importance(inputs[0].flatten(0, 1))
            for name in names:
                self.result[name] = get(self.targets[name]).fit(self.model.tensor(name), importance)

        return hook
