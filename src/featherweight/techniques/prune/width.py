"""Width pruning: FFN channels and key/value groups go, those that contribute least to the output of their block.

A part's score is the mean squared contribution it makes through the matrix D that reads it: E[a_j^2] * ||D_j||^2 for
the FFN channel j, E||D_g x_g||^2 for the attention output of the group g (its query heads together). Activation
importance as in arXiv 2407.14679, with the weight of the reader added. Every block keeps equally many; which ones is
chosen block by block, and later blocks see the earlier ones pruned.

With `compensate`, the reader of the kept parts takes over what it can of the dropped ones: the least-squares solution
D_k += D_d H_dk (H_kk + r diag H_kk)^-1 with H = E[x x^T], the update that optimal brain surgery gives for removing
columns together. The ridge r is in units of each column's own mean square, so that the scale of channels does not
matter, and grows with kept columns / calibration tokens, because few tokens make H noisy: on SmolLM2-135M with 1,152
columns and 3,072 tokens r = 0.5 to 1 was best, and r = 0.01 undid the whole gain. Nothing is retrained. The result is
an ordinary, narrower model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from featherweight.core.architecture import Reads
from featherweight.core.checkpoint import values
from featherweight.core.inputs import InputMoments, set_weight, weight_of
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.moments import contributions
from featherweight.core.parts import Part, PartPruner
from featherweight.core.run import Rewrite, Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.sparsity import like, lowest
from featherweight.core.stream import stream
from featherweight.core.technique import Need, Paper, technique


@technique
class Width(PartPruner):
    """Drops the FFN channels and key/value groups that contribute least, and lets the kept ones make up for them."""

    paper: ClassVar[Paper] = Paper("2407.14679", "Compact Language Models via Pruning and Knowledge Distillation")
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    compensate: bool = Field(True, description="least-squares update of the kept columns for the dropped ones")
    damping: float = Field(
        2.0,
        ge=0,
        description="ridge of the update: times kept columns / calibration tokens, of each column's mean square",
    )
    score: Literal["activation", "random", "reversed"] = Field(
        "activation", description="'random' and 'reversed' (the highest scores go) are the controls"
    )
    rows: int | None = Field(
        None,
        ge=1,
        description="rows of tokens at a time, in less memory; then a block's linears see the unpruned block",
    )

    def apply(self, model: Model, run: Run) -> Model:
        staying = self.staying(model, run)
        if not staying:
            return model
        pruning = _Pruning(self, model, run, {part.read: (part, count) for part, count in staying.items()})
        tokens = run.tokens(self.name)
        visitor = InputMoments([part.read for part in staying], pruning.act, twice=self.rows is not None)
        with run.progress.track("pruning channels and groups", model.architecture.blocks) as advance:
            stream(model, tokens.ids, visitor, self.rows, run.device, advance)
        return pruning.finish()


class _Pruning:
    """Chooses what every block keeps while the model runs, then slices it."""

    def __init__(self, settings: Width, model: Model, run: Run, counts: Mapping[Reads, tuple[Part, int]]) -> None:
        self.settings, self.model, self.run, self.counts = settings, model, run, counts
        self.result = Rewrite(model, run)
        # Any choice of these sizes, so that what cannot be sliced is refused before the long part.
        self.kept: dict[str, dict[int, Sequence[int]]] = {
            part.axis: {block: range(count) for block in range(model.architecture.blocks)}
            for part, count in counts.values()
        }
        self._sliced()

    def act(self, index: int, block: Any, read: Reads, moment: torch.Tensor) -> None:
        part, count = self.counts[read]
        module = read.linears[0]
        name = self.model.architecture.linear(index, module)
        weight = weight_of(block, module)
        dropped = lowest(self._scores(weight, moment, part, name)[None], part.count - count)[0]
        self.kept[part.axis][index] = (~dropped).nonzero().flatten().tolist()
        columns = (~dropped).repeat_interleave(part.width)
        reader = weight[:, columns]
        if self.settings.compensate:
            ridge = self.settings.damping * int(columns.sum()) / self.run.tokens(name).count
            stored = like(self.model.stored(name), compensated(weight, moment, columns, ridge))
            self.result[name], reader = stored, values(stored)
        set_weight(block, module, torch.zeros_like(weight).masked_scatter_(columns, reader))

    def _scores(self, weight: torch.Tensor, moment: torch.Tensor, part: Part, name: str) -> torch.Tensor:
        if self.settings.score == "random":
            return self.run.uniform(name, (part.count,))
        scores = contributions(weight, moment, part.width)
        return -scores if self.settings.score == "reversed" else scores

    def _sliced(self) -> Model:
        return slice_model(self.model, Keep(ffn=self.kept.get("ffn"), groups=self.kept.get("query")))

    def finish(self) -> Model:
        return self.result.finish(onto=self._sliced())


def compensated(weight: torch.Tensor, moment: torch.Tensor, kept: torch.Tensor, ridge: float) -> torch.Tensor:
    """The kept columns of `weight`, moved so that they reproduce its output in the least-squares sense.

    Args:
        weight: float32 [rows, columns].
        moment: E[x x^T], float32 [columns, columns].
        kept: bool [columns].
        ridge: share of each kept input's mean square that is added to it.
    """
    moment = moment.double()
    among = moment[kept][:, kept]
    unit, extra = among.diagonal().mean().clamp(min=1e-30), 0.0
    among.diagonal().mul_(1 + ridge)
    for _ in range(14):
        lower, failed = torch.linalg.cholesky_ex(among + extra * unit * torch.eye(len(among), dtype=among.dtype))
        if not bool(failed):
            break
        extra = max(10 * extra, 1e-12)  # inputs that are zero or depend on each other need some, never an error
    taken_over = torch.cholesky_solve(moment[kept][:, ~kept] @ weight[:, ~kept].double().T, lower).T
    return (weight[:, kept].double() + taken_over).float()
