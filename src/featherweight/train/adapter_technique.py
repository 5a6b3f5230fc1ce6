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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.technique import Kind, Need, Technique
from featherweight.train import adapters

if TYPE_CHECKING:
    import peft


class AdapterTechnique(Technique):
    """Base of the techniques that train an adapter."""

    kind: ClassVar[Kind] = Kind.ADAPT
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    data: str | None = Field(
        None, description="a .jsonl file of chats, prompts with completions, or texts; none = the calibration text"
    )
    steps: int = Field(100, ge=0, description="updates; 0 changes nothing")
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

    def attach(self, model: Model, run: Run) -> Any:
        """The model's module with a new adapter, untrained, on the run's device."""
        config = self.peft_config(model)
        return adapters.attach(model.module().to(run.device), config, run.generator(f"{self.name}/init"))

    def apply(self, model: Model, run: Run) -> Model:
        if self.steps == 0:
            return model
        adapted = self.attach(model, run)
        self.train(adapted, model, run)
        return adapters.fold(model, adapted, run)

    def train(self, adapted: Any, model: Model, run: Run) -> list[float]:
        """Trains the adapter in place; returns the loss of every step."""
        from featherweight.core.batch import Batch
        from featherweight.train.loop import Schedule, minimise, shuffled
        from featherweight.train.next_token import next_token_loss

        ids = run.tokens(self.name).ids
        rows = shuffled(len(ids), self.batch, run.generator(f"{self.name}/order"))

        def loss(step: int) -> torch.Tensor:
            chosen = ids[list(rows(step))]
            zeros = torch.zeros_like(chosen)
            positions = torch.arange(chosen.shape[1]).expand_as(chosen)
            batch = Batch(chosen, chosen, positions, zeros).to(run.device)

            def run_model() -> torch.Tensor:
                total, count = next_token_loss(adapted, batch)
                return total / max(count, 1)

            generator = run.generator(f"{self.name}/step {step}")
            with adapters.seeded(generator):
                return self.step_loss(adapted, run_model, generator)

        adapted.train()
        trained = [each for each in adapted.parameters() if each.requires_grad]
        schedule = Schedule(self.steps, self.learning_rate, round(self.warmup * self.steps), self.decay)
        losses = minimise(
            trained, loss, schedule, self.name, run.progress, weight_decay=self.weight_decay, clip=self.clip
        )
        adapted.eval()
        return losses

    @classmethod
    def neutral(cls) -> Self:
        return cls(steps=0)
