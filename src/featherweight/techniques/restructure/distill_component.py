"""Distils a small text encoder from a large one on the prompts that it really gets.

The student gives token states where the teacher gave them: masked squared error and cosine on valid tokens, and a
term that keeps the mean state when words change places. The teacher runs once over all prompts, at the student's
context. arXiv 2602.12173; against its released trainer padding is masked in the student's attention, the consistency
term counts once, and no rate decays by layer. Not a `Technique`: what it changes is no causal language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from featherweight.core.errors import DataError, RecipeError
from featherweight.core.host import Component
from featherweight.core.lazy import torch
from featherweight.core.prompts import padded, token_ids
from featherweight.core.run import Run
from featherweight.train.loop import Schedule, minimise, shuffled
from featherweight.train.token_losses import masked_cosine, masked_mse, order_consistency, shuffled_words

_RATE_BATCH = 512


class DistillComponent(BaseModel):
    """Replaces a text encoder by a small student that was taught its token states on a prompt log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(512, ge=1, description="numbers in a student's state; the paper's small students have 512")
    layers: int = Field(4, ge=0, description="transformer layers")
    heads: int = Field(8, ge=1, description="attention heads; they divide the width")
    feed_forward: int = Field(4, ge=1, description="width of the feed-forward part over the width")
    mixers: bool = Field(
        False, description="a convolutional block before and after, folded into one convolution at the end"
    )
    context: int = Field(
        16,
        ge=2,
        description="most tokens of a prompt with special tokens; unless set, the verb takes what an audit recommends",
    )
    positions: Literal["matching", "interpolate", "slice"] = Field(
        "matching", description="one row a position, or a longer table resampled or cut; folded to one row a position"
    )
    position_rows: int | None = Field(None, ge=2, description="rows of a longer table; none = as many as positions")
    vocabulary: Literal["used", "all"] = Field(
        "used", description="'used': rows for the ids of the training prompts and one shared row for all others"
    )
    shared: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share of training tokens read from the shared row, so that new ids meet a trained one",
    )
    initial: Literal["random", "teacher"] = Field(
        "random", description="token table at the start; 'teacher' = principal components of the teacher's rows"
    )
    mse: float = Field(1.0, ge=0, description="weight of the squared error")
    cosine: float = Field(2.0, ge=0, description="weight of 1 - cosine")
    consistency: float = Field(0.05, ge=0, description="weight of the word-order term; 0 = plain feature distillation")
    epochs: float = Field(100, gt=0, description="passes over the training prompts")
    batch: int = Field(128, ge=1, description="prompts a step")
    learning_rate: float = Field(5e-3, gt=0, description="highest rate at a batch of 512; scaled with the batch")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")

    @model_validator(mode="after")
    def _fits(self) -> DistillComponent:
        if self.width % self.heads:
            raise RecipeError(
                f"width = {self.width} with heads = {self.heads}", "does not divide", "use a multiple of the heads"
            )
        rows = self.position_rows or self.context
        if rows < self.context or (self.positions == "matching" and rows != self.context):
            raise RecipeError(
                f"positions = {self.positions} with a table of {rows} rows", f"do not fit a context of {self.context}",
                "use 'interpolate' or 'slice' for longer tables, and no shorter ones",
            )  # fmt: skip
        return self

    def schedule(self, prompts: int) -> Schedule:
        """Steps and rates for a number of training prompts."""
        batch = min(self.batch, prompts)
        steps = max(round(self.epochs * (prompts // batch)), 1)
        return Schedule(steps, self.learning_rate * batch / _RATE_BATCH, round(self.warmup * steps))


@dataclass(frozen=True)
class Distilled:
    """A trained student, folded and in evaluation mode, and the loss of every step."""

    student: Any
    losses: list[float]


def distill(component: Component, prompts: Sequence[str], settings: DistillComponent, run: Run) -> Distilled:
    """Trains a student of a component on prompts.

    Args:
        component: the teacher; it is not changed.
        prompts: different training prompts.
        settings: sizes, weights of the losses, training.
        run: seed and progress.

    Raises:
        DataError: no prompts; RecipeError: the teacher takes fewer tokens than `context`.
    """
    student, losses = train(component, prompts, settings, run)
    return Distilled(student.fold().eval(), losses)


def train(
    component: Component, prompts: Sequence[str], settings: DistillComponent, run: Run
) -> tuple[Any, list[float]]:
    """The same before folding: the position table still is as long as it was trained."""
    check_trainable(component, prompts, settings)
    rows = token_ids(prompts, component.host.tokenizer, settings.context)
    student = new_student(component, rows, settings, run)
    lesson = _Lesson(component, student, prompts, rows, settings, run)
    learnt = [parameter for name, parameter in student.named_parameters() if not name.startswith("pooler.")]
    student.train()
    losses = minimise(
        learnt, lesson.loss, settings.schedule(len(rows)), "teaching the student", run.progress,
        weight_decay=settings.weight_decay, clip=1.0,
    )  # fmt: skip
    return student.requires_grad_(False).eval(), losses


def check_trainable(component: Component, prompts: Sequence[str], settings: DistillComponent) -> None:
    """Refuses what could not be trained: no prompts, or a longer context than the teacher's."""
    if not prompts:
        raise DataError("training prompts", "are none", "give a longer prompt log")
    if settings.context > component.context:
        raise RecipeError(
            f"context = {settings.context}", f"is more than the {component.context} tokens that the teacher takes",
            "use at most that",
        )  # fmt: skip


class _Lesson:
    """Teacher's states, and the loss of a step."""

    def __init__(
        self, component: Component, student: Any, prompts: Sequence[str], rows: list[list[int]],
        settings: DistillComponent, run: Run,
    ) -> None:  # fmt: skip
        self.student, self.prompts, self.rows, self.settings = student, prompts, rows, settings
        self.tokenizer, self.pad = component.host.tokenizer, component.host.pad
        self.batch_of = shuffled(len(rows), settings.batch, run.generator("order of prompts"))
        self.words, self.drops = run.generator("order of words"), run.generator("shared row")
        self.hide = _hider(self.tokenizer, student, settings.shared)
        with run.progress.track("asking the teacher", -(-len(rows) // 64)) as advance:
            self.states = component.states(rows, advance=advance)

    def loss(self, step: int) -> torch.Tensor:
        batch = self.batch_of(step)
        ids, valid = padded([self.rows[row] for row in batch], self.pad)
        teacher = torch.nn.utils.rnn.pad_sequence([self.states[row] for row in batch], batch_first=True)
        states = self.student(self.hide(ids, self.drops), valid).last_hidden_state
        total = self.settings.mse * masked_mse(states, teacher, valid)
        total = total + self.settings.cosine * masked_cosine(states, teacher, valid)
        if self.settings.consistency:
            total = total + self.settings.consistency * self._consistency(batch, states, valid)
        return total

    def _consistency(self, batch: Sequence[int], states: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        other = token_ids(
            [shuffled_words(self.prompts[row], self.words) for row in batch], self.tokenizer, self.settings.context
        )
        changed = [place for place, row in enumerate(batch) if other[place] != self.rows[row]]
        if not changed:
            return torch.zeros(())
        ids, mask = padded([other[place] for place in changed], self.pad)
        return order_consistency(
            states[changed], valid[changed], self.student(ids, mask).last_hidden_state, mask, len(batch)
        )


def _hider(tokenizer: Any, student: Any, share: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """Replaces a share of ordinary tokens by an id that reads the shared row."""
    config = student.config
    if not share or config.kept_rows is None or config.kept_rows >= config.vocab_size:
        return lambda ids, _: ids
    hidden = int((student.tokens.row_of == config.kept_rows).nonzero()[0])
    special = torch.tensor(sorted(tokenizer.all_special_ids))

    def hide(ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        drawn = torch.rand(ids.shape, generator=generator) < share
        return torch.where(drawn & ~torch.isin(ids, special), hidden, ids)

    return hide


def new_student(component: Component, rows: Sequence[Sequence[int]], settings: DistillComponent, run: Run) -> Any:
    """An untrained student for rows of training ids; it pools as the teacher does."""
    from featherweight.models.untrained import start_from_table, untrained_student  # heavy

    sizes = {
        "hidden_size": settings.width, "num_hidden_layers": settings.layers, "num_attention_heads": settings.heads,
        "intermediate_size": settings.feed_forward * settings.width, "mixers": settings.mixers,
        "context": settings.context, "position_rows": settings.position_rows or settings.context,
        "positions": settings.positions,
    }  # fmt: skip
    special = set(component.host.tokenizer.all_special_ids)
    kept = sorted({token for row in rows for token in row} | special) if settings.vocabulary == "used" else None
    seed = run.generator("student").initial_seed()
    student = untrained_student(component, rows, sizes, kept, seed)
    if settings.initial == "teacher":
        start_from_table(student, component, kept)
    return student
