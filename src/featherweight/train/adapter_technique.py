"""What every technique that trains an adapter shares: the data, the pace of training, and the fold at the end.

A subclass says which PEFT configuration it wants (`peft_config`), and may add to the loss of a step (`step_loss`).
`apply` trains and folds the adapter into the weights: a technique turns a model into a model. The verb `adapt` trains
in the same way and keeps the adapter beside the model.

The loss is the next-token loss summed over trainable labels and divided by the number of those of the whole update,
in however many parts the update goes through the model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from featherweight.core.attach import attach
from featherweight.core.errors import RecipeError
from featherweight.core.examples import encode
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.packing import PackedRows
from featherweight.core.run import Run
from featherweight.core.samples import Sample, read_samples
from featherweight.core.technique import Kind, Need, Technique
from featherweight.core.user_file import digest_of
from featherweight.train import adapters
from featherweight.train.checkpoints import Course
from featherweight.train.governor import Governor, stop_when_flat
from featherweight.train.loop import Schedule
from featherweight.train.optimizers import BASELINE, build_optimizer, find_optimizer
from featherweight.train.trainer import Hooks, Kept, Pace, Trainer
from featherweight.train.unfreezing import Unfreezing, ladder

if TYPE_CHECKING:
    import peft

_LOOKS = 50  # of the governor, in the whole training


class AdapterTechnique(Technique):
    """Base of the techniques that train an adapter."""

    kind: ClassVar[Kind] = Kind.ADAPT
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    data: str | None = Field(
        None, description="a .jsonl file of chats, prompts with completions, or texts; none = the calibration text"
    )
    steps: int = Field(100, ge=0, description="updates; 0 changes nothing")
    epochs: float | None = Field(None, gt=0, description="passes over the data, instead of a number of updates")
    learning_rate: float = Field(2e-4, gt=0, description="the highest one")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the rate rises")
    decay: Literal["cosine", "linear", "none"] = Field("cosine", description="how the rate falls to zero afterwards")
    weight_decay: float = Field(0.0, ge=0, description="of the adapter's weights")
    clip: float | None = Field(1.0, gt=0, description="greatest norm of an update's gradient; none = any")
    batch: int = Field(8, ge=1, description="rows of tokens an update")
    parts: int = Field(1, ge=1, description="parts in which an update's rows pass the model: less memory, same result")
    length: int = Field(512, ge=8, description="tokens of a row; short examples share one, longer ones are cut")
    targets: tuple[str, ...] = Field(
        (), description="names, or ends of names, of the linears that are adapted; none = all linears of the blocks"
    )

    optimizer: str = Field(BASELINE, description="adamw, muon, adafactor, sgd, ...: see compare-optimizers")
    unfreeze: int = Field(
        0, ge=0, description="updates after which the next quarter of the blocks joins, from the top; 0 = all at once"
    )
    stop_when_flat: bool = Field(
        False, description="end when the updates left promise less than 5 % of the gain so far; best with decay = none"
    )
    softmax_neighbours: int | None = Field(
        None,
        ge=1,
        description="train with a softmax over the labels and so many tokens most like each: approximate, its losses "
        "compare with no others; none = the full softmax, which evaluations always use",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the frozen weights; auto = bfloat16 on a GPU that has it. The adapter is float32"
    )

    @field_validator("optimizer")
    @classmethod
    def _known(cls, name: str) -> str:
        facts = find_optimizer(name)
        if not facts.plain_state:
            raise RecipeError(
                f"optimizer {name!r}", "keeps what no checkpoint can hold", "use adamw, muon or adafactor"
            )
        return facts.name

    @abstractmethod
    def peft_config(self, model: Model) -> peft.PeftConfig:
        """What PEFT is to put on this model.

        Raises:
            RecipeError: a field does not suit the model, such as a rank above a layer's size.
        """

    def step_loss(self, adapted: Any, loss: Callable[[], torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """The loss of one part of an update.

        Args:
            adapted: PEFT's wrapper of the module.
            loss: runs the model and gives the loss; it may be called several times, or not at all.
            generator: for what is drawn at random in this step.
        """
        return loss()

    def target_names(self, model: Model) -> list[str]:
        """What goes into PEFT's `target_modules`.

        Raises:
            RecipeError: a target matches nothing.
        """
        return adapters.target_names(model, self.targets)

    def adapted_linears(self, model: Model) -> Sequence[str]:
        """Full module names of the linears that are adapted."""
        return adapters.adapted_linears(model, self.targets)

    def attach(self, model: Model, run: Run, module: Any = None) -> Any:
        """The model's module with a new adapter, untrained, on the run's device.

        Args:
            model: the base.
            run: gives the device and the generator of the adapter's first values.
            module: the model's module where it is not the usual one, such as one whose matrices are kept small.
        """
        config = self.peft_config(model)
        module = module or model.module(self.compute_dtype(run.device)).to(run.device)
        adapted = attach(module, config, run.generator(f"{self.name}/init"))
        find_optimizer(self.optimizer).load()
        if (schedule := self._unfreezing(adapted)) and self.epochs is None:
            schedule.check(self.steps, _trained(adapted))
        return adapted

    def _unfreezing(self, adapted: Any) -> Unfreezing | None:
        return ladder(list(_trained(adapted)), self.unfreeze) if self.unfreeze else None

    def _hooks(self, adapted: Any, pace: Pace, hooks: Hooks) -> Hooks:
        """The optimizer, what is frozen when, and when to end, beside what the caller wants."""
        named, unfreezing, rate = _trained(adapted), self._unfreezing(adapted), self.learning_rate
        factors, steps = unfreezing.factors if unfreezing else None, pace.schedule.steps

        def optimizer_of(_: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
            return build_optimizer(self.optimizer, named.items(), rate, self.weight_decay, factors=factors)

        return replace(
            hooks, step_loss=self.step_loss, unfreezing=unfreezing,
            optimizer_of=optimizer_of if unfreezing or self.optimizer != BASELINE else hooks.optimizer_of,
            stop=stop_when_flat(Governor(budget=steps), max(1, steps // _LOOKS)) if self.stop_when_flat else hooks.stop,
        )  # fmt: skip

    def compute_dtype(self, device: str) -> torch.dtype:
        """In which the base computes on a device."""
        has_it = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        chosen = self.precision if self.precision != "auto" else "bfloat16" if has_it else "float32"
        return torch.bfloat16 if chosen == "bfloat16" else torch.float32

    def outside(self) -> dict[str, str]:
        path = Path(self.data or "")
        return {"data": digest_of(path)} if path.is_file() else {}

    def apply(self, model: Model, run: Run) -> Model:
        if self.steps == 0:
            return model
        rows = self.rows(model, run)
        adapted = self.attach(model, run)
        course = self.train(adapted, rows, run)
        run.note("updates", course.steps)
        run.note("losses", [round(course.losses[0], 4), round(course.losses[-1], 4)])
        return adapters.fold(model, adapted, run)

    def rows(self, model: Model, run: Run) -> PackedRows:
        """What is trained on, packed into rows.

        Raises:
            DataError: the file does not do, or there is neither a file nor calibration text.
        """
        if self.data is None:
            return PackedRows.of_tokens(run.tokens(self.name))
        return self.packed(read_samples(self.data), model, run)

    def packed(self, samples: Sequence[Sample], model: Model, run: Run) -> PackedRows:
        """Samples as rows; says what was lost to their length."""
        encoded = encode(samples, model.tokenizer, self.length)
        if encoded.cut or encoded.left_out:
            run.progress.say(
                f"{encoded.cut} of {len(samples)} samples are cut to {self.length} tokens, {encoded.left_out} have"
                " no token to train on and are left out"
            )
        return PackedRows(encoded.examples, self.length)

    def pace(self, rows: PackedRows) -> Pace:
        """How it is trained on these rows."""
        steps = self.steps
        if self.epochs is not None and steps:
            steps = max(1, round(self.epochs * len(rows) / min(self.batch, len(rows))))
        schedule = Schedule(steps, self.learning_rate, round(self.warmup * steps), self.decay)
        return Pace(schedule, self.batch, self.parts, self.weight_decay, self.clip)

    def train(
        self, adapted: Any, rows: PackedRows, run: Run, hooks: Hooks | None = None, kept: Kept | None = None
    ) -> Course:
        """Trains the adapter in place.

        Args:
            adapted: PEFT's wrapper of the module.
            rows: what it is trained on.
            run: gives seed, device and progress.
            hooks: what is other than usual; the loss of a step is always this technique's.
            kept: where the state is kept.
        """
        pace = self.pace(rows)
        hooks = self._hooks(adapted, pace, hooks or Hooks())
        if self.softmax_neighbours is not None:
            from featherweight.train.chunked_head import loss_of
            from featherweight.train.subset_softmax import Subset

            hooks = replace(hooks, loss_of=partial(loss_of, narrow=Subset(self.softmax_neighbours)))
        from featherweight.train.low_rank import fused

        with fused(adapted):
            return Trainer(adapted, rows, pace, run, self.name, hooks).train(kept)

    @classmethod
    def neutral(cls) -> Self:
        return cls(steps=0)


def _trained(adapted: Any) -> dict[str, torch.Tensor]:
    """The adapter's parameters by name."""
    return {name: each for name, each in adapted.named_parameters() if each.requires_grad}
