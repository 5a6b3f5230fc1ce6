"""MatryoshkaLoRA: one adapter whose first r components are an adapter of rank r, for every r up to its own.

arXiv 2605.07850 trains the sum of the nested outputs, that is one forward pass with a fixed weight P_i on component i,
and drops P when it serves. DyLoRA (arXiv 2210.07558) draws a rank in every step. The third objective is that of
Matryoshka representations: the loss of every rank, so that every prefix is asked to be good by itself.

The defaults are ours, not the paper's. In the small settings that we measure (`claims/matryoshka_lora.py`) the paper's
objective did not make low ranks good: nothing in it asks a prefix to be good alone, and what is served is not what was
trained. The losses of all ranks did, with scale 1, at the price of one pass per rank in every step; in short training
none of the three was better than plain LoRA cut by its singular values (`adapter shrink`). The paper's own
setting is `objective: sum_of_outputs, scaling: sqrt, init: paper`; its regime (instructed models, tasks scored by
accuracy) is not ours, and its printed results were not to be had.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.nested import check_ranks, powers_of_two, ranks_within
from featherweight.core.technique import Paper, technique
from featherweight.train.adapter_technique import AdapterTechnique
from featherweight.train.adapters import require_rank

if TYPE_CHECKING:
    from featherweight.models.matryoshka_config import MatryoshkaLoraConfig


@technique
class MatryoshkaLora(AdapterTechnique):
    """Trains one low-rank adapter that serves at every rank up to its own."""

    paper: ClassVar[Paper] = Paper(
        "2605.07850", "MatryoshkaLoRA: Learning Accurate Hierarchical Low-Rank Representations for LLM Fine-Tuning"
    )

    rank: int = Field(32, ge=1, description="the highest; at most the smaller side of every adapted matrix")
    ranks: tuple[int, ...] | None = Field(
        None, description="the ranks that are trained for; none = powers of two and the rank itself"
    )
    objective: Literal["sum_of_outputs", "sum_of_losses", "sampled"] = Field(
        "sum_of_losses",
        description="sum_of_outputs: one pass with all nested outputs added (the paper); sum_of_losses: the mean loss "
        "of all ranks, a pass for each (best at low ranks in what we measured); sampled: one rank a step (DyLoRA)",
    )
    frozen: bool = Field(
        False, description="sampled: train only the components that the next lower rank lacks, the others stay"
    )
    serve: Literal["drop_weight", "keep_weight"] = Field(
        "drop_weight", description="serve components with the rank's scale alone (the paper), or with their weight P"
    )
    scaling: Literal["none", "rank", "sqrt"] = Field(
        "none", description="what the output of rank r is multiplied by: 1, 1/r or 1/sqrt(r); the paper tried all"
    )
    divide_by_ranks: bool = Field(False, description="divide P by the number of ranks; the paper's code does both")
    init: Literal["peft", "paper"] = Field(
        "peft",
        description="start of A: uniform within 1/sqrt(inputs), or as in the paper's code 1/sqrt(rank)",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of a layer's inputs that training hides from the change")

    def peft_config(self, model: Model) -> MatryoshkaLoraConfig:
        from featherweight.models.matryoshka_config import MatryoshkaLoraConfig

        require_rank(model, self.rank, self.targets)
        return MatryoshkaLoraConfig(
            r=self.rank, ranks=list(self.nested_ranks), scaling=self.scaling, objective=self.objective,
            serve=self.serve, divide_by_ranks=self.divide_by_ranks, frozen=self.frozen, init=self.init,
            lora_dropout=self.dropout, target_modules=self.target_names(model), task_type="CAUSAL_LM",
        )  # fmt: skip

    @property
    def nested_ranks(self) -> tuple[int, ...]:
        """The ranks that are trained for, in order.

        Raises:
            RecipeError: one of those given is above the adapter's rank.
        """
        return powers_of_two(self.rank) if self.ranks is None else check_ranks(self.ranks, self.rank)

    def step_loss(self, adapted: Any, loss: Callable[[], torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        from featherweight.train.nested_loss import mean_over_states

        trained = self.trained_ranks(generator)
        states = [partial(adapted.at_rank, rank, learns_from=first) for rank, first in trained]
        return mean_over_states(states, loss, adapted.parameters())

    def trained_ranks(self, generator: torch.Generator) -> list[tuple[Any, int]]:
        """What a step trains: ranks, or "trained" for the sum of outputs, and the first component that learns."""
        if self.objective == "sum_of_outputs":
            return [("trained", 0)]
        ranks = ranks_within(self.nested_ranks, self.rank)
        if self.objective == "sum_of_losses":
            return [(rank, 0) for rank in ranks]
        drawn = int(torch.randint(len(ranks), (), generator=generator))
        return [(ranks[drawn], (0, *ranks)[drawn] if self.frozen else 0)]
