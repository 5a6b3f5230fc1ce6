"""What a compressed language model learns from to recover: the text itself, or what its parent computes on it.

- "next-token": cross-entropy of the text; the parent is not asked.
- "logit-kl": KL divergence from the parent's next-token distribution.
- "hidden-states": squared distance of the final hidden states and of those after a few blocks, as a share of the
  parent's squared length.
- "cpc": contrastive, which of the positions of the row has the parent's state that belongs here? InfoNCE between the
  student's and the parent's final states, normalised over channels, at an offset of k positions. With k = 0 and no
  map between the two, the parent's head can go on reading the states; with k > 0 a linear map predicts the later one.

Only blocks and norms learn, embedding and head stay: the parent's head reads every student.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from featherweight.core.errors import RecipeError
from featherweight.core.fields import built_by_name
from featherweight.core.lazy import torch
from featherweight.train.bake_off import batch_loss
from featherweight.train.distill import divergence, mismatch
from featherweight.train.objectives.contrast import info_nce
from featherweight.train.objectives.registry import check_set
from featherweight.train.student import block_outputs
from featherweight.train.teacher import Teacher
from featherweight.train.workloads import plain


@dataclass(frozen=True)
class Lesson:
    """A batch with what the parent computes on it.

    Attributes:
        ids: int64 [rows, tokens].
        teacher: final hidden states and those after matched blocks, of these rows.
        head: of the student, float32 [vocabulary, hidden].
    """

    ids: torch.Tensor
    teacher: Teacher
    head: torch.Tensor


class Recovery(BaseModel, ABC):
    """Base class; fields are hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]

    def extra(self, width: int) -> list[torch.Tensor]:
        """What is trained beside the student."""
        return []

    @abstractmethod
    def loss(self, module: Any, lesson: Lesson, extra: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """A scalar.

        Args:
            module: a transformers causal language model.
            lesson: the batch.
            extra: what `extra` gave.
            generator: draws what is drawn.
        """


class FromText(Recovery):
    """Learns the text."""

    name: ClassVar[str] = "next-token"

    def loss(self, module: Any, lesson: Lesson, extra: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        return batch_loss(module, plain(lesson.ids))


class FromLogits(Recovery):
    """Learns the parent's distribution of the next token."""

    name: ClassVar[str] = "logit-kl"

    def loss(self, module: Any, lesson: Lesson, extra: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        final = module.model(input_ids=lesson.ids, use_cache=False).last_hidden_state
        return divergence(final, lesson.head, lesson.teacher.final, lesson.teacher.head)


class FromStates(Recovery):
    """Learns the parent's hidden states."""

    name: ClassVar[str] = "hidden-states"

    def loss(self, module: Any, lesson: Lesson, extra: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        after: Mapping[int, torch.Tensor] = lesson.teacher.after
        with block_outputs(module.model.layers, list(after)) as ours:
            final = module.model(input_ids=lesson.ids, use_cache=False).last_hidden_state
        total = mismatch(final, lesson.teacher.final)
        return total + sum(mismatch(ours[block], states) for block, states in after.items()) / max(len(after), 1)


class FromContrast(Recovery):
    """Finds the parent's state of its own position among those of other positions."""

    name: ClassVar[str] = "cpc"

    offset: int = Field(0, ge=0, description="positions ahead; above 0 through a linear map")
    negatives: int = Field(16, ge=1, description="other positions")
    temperature: float = Field(0.1, gt=0, description="cosines are divided by it")

    def extra(self, width: int) -> list[torch.Tensor]:
        return [torch.eye(width)] if self.offset else []

    def loss(self, module: Any, lesson: Lesson, extra: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        final = module.model(input_ids=lesson.ids, use_cache=False).last_hidden_state
        unit = torch.nn.functional.normalize
        predicted = unit(final @ extra[0] if extra else final, dim=-1)
        wanted = unit(lesson.teacher.final, dim=-1)
        total = info_nce(predicted, wanted, self.offset, self.negatives, self.temperature, generator)
        return total / (lesson.ids.shape[1] - self.offset)


def build_recoveries(names: Sequence[str], fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Recovery]:
    """Ways to recover by name; none = all but the contrastive one.

    Raises:
        RecipeError: an unknown name or field, or a value out of range.
    """
    chosen = names or ("next-token", "logit-kl", "hidden-states")
    check_set(fields, chosen)
    return {name: built_by_name(RECOVERIES, name, fields.get(name, {}), "objective", RecipeError) for name in chosen}


RECOVERIES: Mapping[str, type[Recovery]] = {
    each.name: each for each in (FromText, FromLogits, FromStates, FromContrast)
}
