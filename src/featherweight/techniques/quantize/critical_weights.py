"""Q-resafe without training: weights that matter most for a model's own answers stay at 16 bits, the rest is rounded.

Weights are scored by SNIP, |W dL/dW| with L = -log p(y|x) of the model's own answers y, averaged over prompts; of every
matrix of the blocks the share with the highest scores keeps its value. arXiv 2506.20251, which does not say how many it
keeps; its share of 0.6 for patches would come to 11.2 bits a weight with 4-bit rounding, and the marks that say which
weights are kept take one bit more each. The true figure is printed and goes into the receipt. With a share of 0 it is
`rtn`. After `awq` with `round: false` it is the paper's variant for AWQ.

A matrix that an earlier quantizer has rounded keeps its codes, and the weights that stay come from the run's parent, if
that is still on the same scales (after awq it is not).

The result is stored in formats of ours ("Q4_0+0.1xBF16"), which no runtime reads: see `core.formats.composed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from featherweight.core.errors import DataError
from featherweight.core.formats import FLOATS, Packed, get
from featherweight.core.formats.composed import Kept
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.quantizer import KEEP, Quantizer
from featherweight.core.run import Rewrite, Run
from featherweight.core.technique import Need, Paper, technique
from featherweight.train.own_answers import AsksModels
from featherweight.train.preference import answered, log_probabilities
from featherweight.train.saliency import highest, snip_scores


@technique
class CriticalWeights(Quantizer, AsksModels):
    """Rounds to nearest but for the weights that matter most for the model's own answers, which stay at 16 bits."""

    paper: ClassVar[Paper] = Paper(
        "2506.20251", "Q-resafe: Assessing Safety Risks and Quantization-aware Safety Patching for Quantized LLMs"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    share: float = Field(
        0.05, ge=0, lt=1, description="of each matrix's weights that stays at 16 bits; the paper gives none"
    )
    values: Literal["BF16", "F16"] = Field("BF16", description="number format of the weights that stay")
    mask: Literal["snip", "random"] = Field("snip", description="which weights stay; 'random' is the control")

    def apply(self, model: Model, run: Run) -> Model:
        targets = self.targets(model)
        rounded = self._rounded(model, targets) if self.share else []
        result = Rewrite(model, run)
        if not targets and not rounded:
            return result.finish(planned={})
        full = self._full(model, rounded, run)
        linears = set(model.architecture.linears())
        scored = [*rounded, *(name for name, kind in targets.items() if name in linears and kind not in FLOATS)]
        # The share as the name of the format writes it, so that the count is the one the name says.
        kept = highest(self._scores(scored, full, run), float(f"{self.share:g}")) if self.share and scored else {}
        with run.progress.track("keeping critical weights", len(targets) + len(rounded)) as advance:
            for name in (*rounded, *targets):
                base = model.stored(name) if name in rounded else get(targets[name]).fit(model.tensor(name))
                result[name] = self._with_kept(base, full.tensor(name), kept[name]) if name in kept else base
                advance()
        return _reported(result.finish(planned={}), scored, run)

    def _with_kept(self, base: Packed, weight: torch.Tensor, kept: torch.Tensor) -> Packed:
        return Kept(get(base.format), self.share, self.values).join(base, weight, kept)

    def _rounded(self, model: Model, targets: Mapping[str, str]) -> list[str]:
        """Linears that an earlier step has rounded and that are not to be rounded otherwise."""
        names = [name for name in model.architecture.linears() if name not in targets]
        return [name for name in names if model.entries[name].format not in FLOATS]

    def _full(self, model: Model, rounded: list[str], run: Run) -> Model:
        """The model that is not rounded, whose weights stay.

        Raises:
            DataError: the model is rounded, and there is no parent with the same matrices.
        """
        if not rounded:
            return model
        parent = run.parent
        if parent is None or any(
            name not in parent.entries or parent.entries[name].shape != model.entries[name].shape for name in rounded
        ):
            raise DataError(
                f"{self.name} on a rounded model", "needs a parent with the same matrices",
                "use it in the recipe that rounds the model, or instead of its quantizer with a format",
            )  # fmt: skip
        return parent

    def _scores(self, names: list[str], model: Model, run: Run) -> dict[str, torch.Tensor]:
        """float32 [rows, columns] by name."""
        if self.mask == "random":
            return {name: run.uniform(f"{self.name} {name}", model.entries[name].shape) for name in names}
        questions = self.questions(model, run)
        rows = list(zip(questions, self.answers(model, questions, run), strict=True))
        module = model.module().to(run.device)
        current = {name: module.get_parameter(name) for name in names}

        def loss(weights: Mapping[str, torch.Tensor], example: int) -> torch.Tensor:
            return -log_probabilities(module, weights, answered([rows[example]], run.device)).sum()

        return {name: each.cpu() for name, each in snip_scores(loss, len(rows), current, current).items()}

    @classmethod
    def neutral(cls) -> CriticalWeights:
        return cls(format=KEEP, share=0)


def _reported(after: Model, names: list[str], run: Run) -> Model:
    """The result, with its true size said and noted."""
    if names:
        weights = sum(after.entries[name].shape[0] * after.entries[name].shape[1] for name in names)
        bits = 8 * sum(after.entries[name].nbytes for name in names) / weights
        run.note("bits a weight", round(bits, 4))
        run.progress.say(f"{bits:.2f} bits a weight in the rounded linears, marks and scales included")
    return after
