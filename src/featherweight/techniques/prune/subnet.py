"""A smaller model inside a model: the most important blocks and channels of chosen sizes, cut in one step.

What a joint search decides is executed here. Parts are put in their order of importance (`measure.ordering`) and a
prefix of each stays, so that a search which mixes prefixes and this step mean the same model. Norms divide by the root
mean square of the channels that stay; narrower heads keep the frequencies of their rotary pairs. Nothing is retrained
and kept columns do not make up for dropped ones: `width` does that, for channels and groups chosen block after block.
Widths as in arXiv 2407.14679, depth as in arXiv 2403.03853.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from featherweight.core.errors import RecipeError
from featherweight.core.importance import Order
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, reorder, slice_model
from featherweight.core.technique import Kind, Need, Paper, Technique, technique
from featherweight.measure.ordering import importance_order, random_order


@technique
class Subnet(Technique):
    """Keeps the most important blocks, channels and key/value groups, as many as a search decided."""

    kind: ClassVar[Kind] = Kind.PRUNE
    paper: ClassVar[Paper] = Paper(
        "2606.04063", "LLM Compression with Jointly Optimizing Architectural and Quantization choices"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    not_after: ClassVar[dict[str, str]] = dict.fromkeys(
        ("rtn", "gptq", "awq", "imatrix"), "another order of channels would mix the groups of rounded weights"
    )

    blocks: int | None = Field(None, ge=1, description="blocks that stay; none = all")
    ffn: int | None = Field(None, ge=1, description="FFN channels that stay in every block; none = all")
    groups: int | None = Field(None, ge=1, description="key/value groups that stay in every block; none = all")
    head_dim: int | None = Field(
        None, ge=2, multiple_of=2, description="channels of every head that stay, in rotary pairs; none = all"
    )
    hidden: int | None = Field(None, ge=1, description="channels of the residual stream that stay; none = all")
    order: Literal["importance", "random", "reversed"] = Field(
        "importance", description="'random' and 'reversed' (the most important go) are the controls"
    )

    def apply(self, model: Model, run: Run) -> Model:
        sizes = {"blocks": self.blocks, "ffn": self.ffn, "groups": self.groups, "hidden": self.hidden}
        if all(size is None for size in sizes.values()):
            return slice_model(model, Keep(head_dim=self.head_dim))
        a = model.architecture
        most = {"blocks": a.blocks, "ffn": a.size("ffn"), "groups": a.kv_heads, "hidden": a.size("hidden")}
        for name, size in sizes.items():
            if size is not None and size > most[name]:
                raise RecipeError(f"subnet.{name} = {size}", f"the model has {most[name]}", f"use 1 to {most[name]}")
        order = self._order(model, run)
        in_order = reorder(
            model,
            order.ffn if self.ffn is not None else None,
            order.groups if self.groups is not None else None,
            order.hidden if self.hidden is not None else None,
        )
        return slice_model(in_order, self._keep(order, a.blocks))

    def _order(self, model: Model, run: Run) -> Order:
        if self.order == "random":
            return random_order(model, run)
        order = importance_order(model, run)
        return order.reversed() if self.order == "reversed" else order

    def _keep(self, order: Order, blocks: int) -> Keep:
        def everywhere(size: int | None) -> Mapping[int, Sequence[int]] | None:
            return None if size is None else {block: range(size) for block in range(blocks)}

        return Keep(
            blocks=None if self.blocks is None else order.kept(self.blocks),
            ffn=everywhere(self.ffn),
            groups=everywhere(self.groups),
            hidden=None if self.hidden is None else range(self.hidden),
            head_dim=self.head_dim,
            renormalise=True,
        )

    @classmethod
    def neutral(cls) -> Subnet:
        return cls()
