"""LoRA: the change of a matrix is a product of two thin ones, W + alpha/rank B A, trained while W stays.

arXiv 2106.09685, by PEFT's own implementation with its choices: A is drawn uniformly (Kaiming), B is zero at first, so
that training starts at the model itself. DoRA (arXiv 2402.09353) and rank-stabilised scaling (arXiv 2312.03732) are
PEFT's too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from featherweight.core.model import Model
from featherweight.core.technique import Paper, technique
from featherweight.train.adapter_technique import AdapterTechnique
from featherweight.train.adapters import require_rank

if TYPE_CHECKING:
    import peft


@technique
class Lora(AdapterTechnique):
    """Trains a low-rank change of every linear of the blocks on chats or text."""

    paper: ClassVar[Paper] = Paper("2106.09685", "LoRA: Low-Rank Adaptation of Large Language Models")

    rank: int = Field(16, ge=1, description="of the change of every matrix; at most the matrix's smaller side")
    alpha: float | None = Field(None, gt=0, description="the change is scaled by alpha / rank; none = twice the rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of a layer's inputs that training hides from the change")
    rank_stabilised: bool = Field(False, description="scale by alpha / sqrt(rank) instead")
    dora: bool = Field(False, description="train the length of each column of the weight by itself")

    def peft_config(self, model: Model) -> peft.PeftConfig:
        import peft

        require_rank(model, self.rank, self.targets)
        alpha: Any = self.alpha or 2 * self.rank  # PEFT says int and takes any number
        return peft.LoraConfig(
            r=self.rank, lora_alpha=alpha, target_modules=self.target_names(model),
            lora_dropout=self.dropout, use_rslora=self.rank_stabilised, use_dora=self.dora, task_type="CAUSAL_LM",
        )  # fmt: skip
