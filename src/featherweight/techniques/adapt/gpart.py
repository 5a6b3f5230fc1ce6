"""GPart: one vector of d numbers, which a fixed isometric map spreads over all adapted weights, is all that is trained.

Every weight belongs to one of d groups by a hash of a seed, and moves with its group: W + theta[group] / sqrt(size of
the group). Equal steps of theta are equal steps of the weights, which no product of two factors gives. What is stored
is d numbers and a seed; what it costs is the dense gradient of each matrix at hand, as in full fine-tuning. The map
keeps lengths of weights, not of functions, and ties weights that have nothing to do with each other. With Adam and
groups of like size the root only changes the learning rate, which therefore is larger than LoRA's.

arXiv 2605.14841; see `core.partition` and `models.gpart`. What the paper's two scripts do differently is a field here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from featherweight.core.model import Model
from featherweight.core.technique import Paper, technique
from featherweight.train.adapter_technique import AdapterTechnique

if TYPE_CHECKING:
    import peft


@technique
class GPart(AdapterTechnique):
    """Trains one small vector that is spread over all weights by a seed: an adapter of a few kilobytes."""

    name: ClassVar[str] = "gpart"
    paper: ClassVar[Paper] = Paper(
        "2605.14841", "GPart: End-to-End Isometric Fine-Tuning via Global Parameter Partitioning"
    )

    learning_rate: float = Field(5e-3, gt=0, description="the highest one; larger than LoRA's")
    dimension: int = Field(16384, ge=1, description="how many numbers are trained; at most the adapted weights")
    map_seed: int = Field(42, ge=0, description="decides which weights share a number; part of the adapter")
    backend: Literal["stateless", "materialized", "permutation", "signed_magnitude", "fastfood"] = Field(
        "stateless",
        description="how weights are grouped: by a hash, by kept random draws, by a kept permutation, by sign and size;"
        " fastfood is a control without groups",
    )
    scope: Literal["model", "transformer_block"] = Field(
        "model", description="groups over the whole model, or within each block, which then has its share of numbers"
    )
    isometric: bool = Field(True, description="divide by the root of a group's size, so that the map keeps lengths")
    include_bias: bool = Field(False, description="adapt the biases of the targets too")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the change's entries that a training step leaves out")

    def peft_config(self, model: Model) -> peft.PeftConfig:
        from featherweight.models.gpart_config import GPartConfig

        return GPartConfig(
            target_modules=self.target_names(model), dimension=self.dimension, seed=self.map_seed, scope=self.scope,
            backend=self.backend, isometric=self.isometric, include_bias=self.include_bias, dropout=self.dropout,
            task_type="CAUSAL_LM",
        )  # fmt: skip
