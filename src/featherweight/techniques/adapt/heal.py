"""Healing: a compressed model is trained for a while to predict what its parent predicts, within the bytes it has.

Logits and a few hidden states of the parent are the targets (`train.distill`), calibration text is all it needs. Plain
weights are healed before they are rounded: the change is folded into them, zeros of a pruned matrix stay. Rounded
weights are healed on the grid that they are on: scales stay and codes move (straight-through estimator, as in
arXiv 2305.17888), so not a byte is added and the formats are what they were. The embedding and the head stay as well.

Some calibration rows are held back. The model is judged on them before, on the way and at the end, as it would be
stored, and the best one is the result: healing never returns a model that is worse there. It says so in its receipt.
What a held-back row does not see (other text, other tasks) may still get worse: `fit` measures that.

The whole model is in memory in float32, with the activations of a batch: this does not stream.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError, RecipeError
from featherweight.core.formats import FLOATS
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.stream import head_weight, stream
from featherweight.core.technique import Kind, Need, Paper, Technique, technique
from featherweight.measure.quality import hidden_states, score
from featherweight.train.distill import Objective, Training, distill
from featherweight.train.loop import Schedule
from featherweight.train.student import Student, Trainable
from featherweight.train.teacher import Teacher, ancestors, counterparts, spread

_RATES = {"lora": 1e-3, "full": 3e-5}
_TRAVEL = 0.25  # grid steps; a cosine halves it


@technique
class Heal(Technique):
    """Trains a compressed model to predict what its parent predicts; bytes and formats stay as they are."""

    kind: ClassVar[Kind] = Kind.ADAPT
    paper: ClassVar[Paper] = Paper("2407.14679", "Compact Language Models via Pruning and Knowledge Distillation")
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.PARENT})

    steps: int = Field(100, ge=0, description="updates; fewer where nothing better is found for a while")
    minutes: float | None = Field(
        None, gt=0, description="time to train instead of a number of steps, which then follows from timing two of them"
    )
    train: Literal["lora", "full"] = Field(
        "lora", description="'lora': a low-rank change of every matrix of the blocks, folded in; 'full': any change"
    )
    rank: int = Field(16, ge=1, description="of the low-rank changes")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="of plain matrices, at its highest, before a cosine to zero; none = 1e-3 (lora), 3e-5 (full)",
    )
    grid_rate: float | None = Field(
        None,
        gt=0,
        description="of rounded matrices, in steps of their grid; none = 0.25 / steps, but 0.002 to 0.02: "
        "weights move an eighth of a grid step at most, unless training is long",
    )
    vector_rate: float = Field(1e-3, ge=0, description="of norms and biases; 0 leaves them as they are")
    batch: int = Field(4, ge=1, description="rows of tokens a step")
    hidden: float = Field(0.1, ge=0, description="weight of the hidden states beside the KL divergence")
    match: int = Field(4, ge=1, description="after how many blocks, evenly spread, hidden states are compared")
    blocks: tuple[int, ...] = Field(
        (), description="the parent's block of each of the model's; found by their weights when none are given"
    )
    grid: Literal["frozen", "refit"] = Field(
        "frozen",
        description="rounded weights: 'frozen' moves codes on their grid; 'refit' heals before rounding, and refuses",
    )
    zeros: Literal["keep", "free"] = Field(
        "keep", description="'keep': weights that are zero stay zero, as after pruning; 'free': they move too"
    )
    probe: int = Field(4, ge=1, description="calibration rows that are held back to judge by, at most half of them")
    checks: int = Field(8, ge=1, description="how often the model is judged on the way")
    patience: int = Field(3, ge=1, description="checks in a row without a better one, after which training ends")

    def apply(self, model: Model, run: Run) -> Model:
        tokens, parent = run.tokens(self.name), run.original(self.name)
        if self.minutes is not None:
            return self.within(self.minutes, model, run).apply(model, run)
        if self.steps == 0:
            return model
        blocks = self._checked(model, parent)
        training, probe = self._split(tokens)
        pairs = {index: blocks[index] for index in spread(len(blocks), self.match)} if self.hidden else {}
        teacher = Teacher.of(parent, training.ids, pairs, run)
        student = self._student(model, run, parent, blocks)
        outcome = distill(
            student, Objective(training, teacher, self.hidden), self._training(),
            _judge(parent, probe, run), run.generator(self.name), run.progress,
        )  # fmt: skip
        for key, value in outcome.to_dict().items():
            run.note(key, value)
        run.progress.say(
            f"healing: KL {outcome.before:.4f} before, {outcome.after:.4f} after step {outcome.best} of {outcome.steps}"
            f" on {len(probe.ids)} held-back rows{'; ' + outcome.stopped if outcome.stopped else ''}"
        )
        return outcome.model

    def within(self, minutes: float, model: Model, run: Run) -> Heal:
        """The same with the number of steps that takes about so long here, after the parent was read."""
        tokens, parent = run.tokens(self.name), run.original(self.name)
        blocks = self._checked(model, parent)
        training, probe = self._split(tokens)
        ids = training.ids[: self.batch]
        pairs = spread(len(blocks), self.match) if self.hidden else []
        hidden, theirs = model.architecture.size("hidden"), parent.architecture.size("hidden")
        after = {index: torch.ones(*ids.shape, hidden) for index in pairs}
        teacher = Teacher(head_weight(parent).to(run.device), torch.ones(*ids.shape, theirs), after)
        student = self._student(model, run, parent, blocks)
        for each in itertools.chain.from_iterable(student.trained().values()):
            each.requires_grad_(True)
        objective = Objective(training.rows(range(len(ids))), teacher, self.hidden)
        step = min(_seconds(lambda: objective.loss(student, list(range(len(ids)))).backward()) for _ in range(2))
        check = _seconds(lambda: (student.stored(), stream(model, probe.ids, device=run.device)))
        steps = max(1, int((60 * minutes - check * (self.checks + 3)) / step))
        return self.model_copy(update={"minutes": None, "steps": steps})

    def _checked(self, model: Model, parent: Model) -> Sequence[int]:
        """The parent's block of each of the model's, when the two can be compared at all."""
        if model.tokenizer_digest != parent.tokenizer_digest or _vocabulary(model) != _vocabulary(parent):
            raise RecipeError(
                "heal", "the model and its parent do not share a tokenizer", "heal with the model that it was made from"
            )
        rounded = [name for name in model.architecture.linears() if model.entries[name].format not in FLOATS]
        if rounded and self.grid == "refit":
            raise RecipeError(
                "heal.grid = 'refit'", f"{len(rounded)} matrices are rounded already",
                "put heal before the quantizer, or heal on the grid with 'frozen'",
            )  # fmt: skip
        if self.hidden and model.architecture.size("hidden") != parent.architecture.size("hidden"):
            raise RecipeError(
                f"heal.hidden = {self.hidden:g}", f"the model's hidden size is {model.architecture.size('hidden')}, its"
                f" parent's {parent.architecture.size('hidden')}", "set it to 0",
            )  # fmt: skip
        return self._counterparts(model, parent)

    def _counterparts(self, model: Model, parent: Model) -> Sequence[int]:
        ours, theirs = model.architecture.blocks, parent.architecture.blocks
        if not self.blocks:
            return counterparts(model, parent) if self.hidden or ours <= theirs else range(ours)
        if len(self.blocks) != ours or not all(0 <= each < theirs for each in self.blocks):
            raise RecipeError(
                f"heal.blocks = {list(self.blocks)}", f"the model has {ours} blocks and its parent {theirs}",
                "name one of the parent's blocks for each of the model's",
            )  # fmt: skip
        return self.blocks

    def _split(self, tokens: TokenSet) -> tuple[TokenSet, TokenSet]:
        """Rows to train on and rows to judge by, the latter evenly spread."""
        rows = len(tokens.ids)
        if rows < 2:
            raise DataError(self.name, "cannot hold a row of one back", "give more calibration text")
        count = min(self.probe, rows // 2)
        held = [(2 * number + 1) * rows // (2 * count) for number in range(count)]
        return tokens.rows([row for row in range(rows) if row not in held]), tokens.rows(held)

    def _student(self, model: Model, run: Run, parent: Model, blocks: Sequence[int]) -> Student:
        chosen = Trainable(self.rank if self.train == "lora" else None, self.vector_rate > 0, self.zeros == "keep")
        return Student(model, chosen, run, ancestors(model, parent, blocks))

    def _training(self) -> Training:
        rates = {
            "plain": self.learning_rate or _RATES[self.train],
            "grid": self.grid_rate or min(max(_TRAVEL / self.steps, 0.002), 0.02),
            "vectors": self.vector_rate,
        }
        schedule = Schedule(self.steps, 1.0, warmup=min(self.steps // 10, 20))
        return Training(schedule, rates, self.batch, min(self.checks, self.steps), self.patience)

    @classmethod
    def neutral(cls) -> Heal:
        return cls(steps=0)


def _vocabulary(model: Model) -> int:
    return model.architecture.size("vocab")


def _judge(parent: Model, probe: TokenSet, run: Run) -> Callable[[Model], float]:
    """Mean KL divergence from the parent on some rows."""
    reference, head = hidden_states(parent, probe, run), head_weight(parent)

    def damage(model: Model) -> float:
        hidden = stream(model, probe.ids, device=run.device)
        return float(score(reference, hidden, head, head_weight(model), probe).kl.mean())

    return damage


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
