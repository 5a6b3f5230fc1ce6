"""Q-resafe: a rounded model learns back from its parent what rounding made it forget, by moving few of its weights.

1. Data without labels: to each prompt the parent's answer is the chosen one, the rounded model's the rejected one.
   Pairs of equal answers have no gradient and are left out. Prompts need not be harmful.
2. Every `refresh` steps each weight gets a SNIP score, |W dL/dQ| with L = -log p(y|x), averaged over prompts; the share
   `tau` with the highest scores may change.
3. Masked DPO: L = -log sigmoid(beta (log p/p0 of chosen - log p/p0 of rejected)), p0 the rounded model itself, with the
   weights Q = Q0 + Quant(M * alpha/rank * B A). The gradient goes straight through the rounding. `anchor` adds what
   the paper does not have, the likelihood of the parent's answers to all prompts: pairs differ only where something was
   lost, so nothing else in the loss holds what was not.

arXiv 2506.20251. The paper maps the mask onto the factors A and B in a way that it does not define and that they cannot
express; here it lies on their product, and `mapmask: row_fraction` is the nearest that factors can do. Its Q0 +
Quant(delta) is on no grid: `separate` stores it as that, a small delta beside each matrix, which no runtime reads;
`merged` rounds the sum on the grid of Q0 with the scales of Q0, so that bytes and formats stay. The variant without
training is the technique `critical-weights`.

It holds the whole model in float32 with the activations of a batch; it is not streamed. What it was taught is what the
parent does on the prompts that it is given: a refusal that no prompt calls for is not repaired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from featherweight.core.errors import DataError, FormatError, RecipeError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.patched import Merged, Patchable, Separate, require_zero
from featherweight.core.run import Rewrite, Run
from featherweight.core.source import open_model
from featherweight.core.technique import Kind, Need, Paper, technique
from featherweight.train.factor_masks import FactorMasks
from featherweight.train.loop import Schedule, minimise, shuffled
from featherweight.train.masked_delta import MaskedDelta
from featherweight.train.own_answers import AsksModels
from featherweight.train.preference import Pair, PreferenceLoss, answer_loss, answered, log_probabilities
from featherweight.train.saliency import highest, snip_scores


@technique
class SafetyPatch(AsksModels):
    """Teaches a rounded model its parent's answers again by changing only the weights that matter most for them."""

    kind: ClassVar[Kind] = Kind.ADAPT
    paper: ClassVar[Paper] = Paper(
        "2506.20251", "Q-resafe: Assessing Safety Risks and Quantization-aware Safety Patching for Quantized LLMs"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION, Need.PARENT})

    tau: float = Field(0.6, ge=0, le=1, description="share of the weights that may change; 1 = plain DPO, 0 = nothing")
    mask: Literal["snip", "random"] = Field("snip", description="which weights may change; 'random' is the control")
    compare: Literal["matrix", "model"] = Field(
        "matrix", description="the share is that of each matrix, or of all together; the paper does not say"
    )
    refresh: int = Field(1000, ge=1, description="steps from one scoring to the next")
    score_prompts: int = Field(64, ge=1, description="prompts that a scoring reads, one backward pass each")
    score_answers: Literal["chosen", "rejected"] = Field(
        "chosen", description="whose answers y the scores are taken on; the paper does not say"
    )
    score_weights: Literal["parent", "own"] = Field(
        "parent", description="W of the scores; 'own' where the parent has other shapes or scales (after awq)"
    )
    mapmask: Literal["product", "row_fraction"] = Field(
        "product", description="the mask lies on BA, or on rows of B and columns of A by their share of marked weights"
    )
    delta: Literal["merged", "separate"] = Field(
        "merged", description="rounded into each matrix on its own grid, or kept beside it in `delta_format`"
    )
    delta_format: str = Field("int4-g32", description="format of separate deltas; zero must be on its grid")
    rank: int = Field(128, ge=1, description="of the low-rank change")
    alpha: float = Field(256.0, gt=0, description="the change is scaled by alpha / rank")
    beta: float = Field(0.01, gt=0, description="of DPO: how strongly the model is held to the rounded one")
    learning_rate: float = Field(5e-6, gt=0, description="highest learning rate; cosine decay")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps with a rising rate")
    anchor: float = Field(
        0.0,
        ge=0,
        description="weight of the mean NLL of the parent's answers to all prompts, added to DPO; the paper has none",
    )
    epochs: int = Field(1, ge=1, description="how often each pair is seen")
    batch: int = Field(8, ge=1, description="pairs a step")
    aligned: str | None = Field(
        None, description="a model with the same tokenizer that gives the chosen answers; none = the run's parent"
    )

    @field_validator("delta_format")
    @classmethod
    def _holds_zero(cls, value: str) -> str:
        try:
            return require_zero(value)
        except FormatError as error:
            raise ValueError(f"{error.why}; {error.mend}") from None

    def outside(self) -> dict[str, str]:
        return super().outside() | ({} if self.aligned is None else {"aligned": open_model(self.aligned).fingerprint})

    def apply(self, model: Model, run: Run) -> Model:
        if self.tau == 0:
            return model
        parent = self._teacher(model, run)
        every = self.pairs(parent, model, run)
        pairs = [pair for pair in every if pair.chosen != pair.rejected]
        run.note("pairs", {"prompts": len(every), "different answers": len(pairs)})
        run.progress.say(f"{len(pairs)} of {len(every)} answers differ from the parent's")
        if not pairs:
            run.progress.say("every answer is the parent's: there is nothing to patch")
            return model
        patch = self._patch(model, run)
        self._train(patch, _Scoring(self, model, parent, pairs, run), every, run)
        result = Rewrite(model, run)
        for name, stored in patch.stored().items():
            result[name] = stored
        return _reported(result.finish(), model, patch, run)

    def _teacher(self, model: Model, run: Run) -> Model:
        """The model whose answers are chosen."""
        parent = run.parent if self.aligned is None else open_model(self.aligned)
        if parent is None:
            raise DataError(
                self.name, "needs the parent model", "use it after a quantizer, or name a model with `aligned`"
            )
        if parent.tokenizer_digest != model.tokenizer_digest and _vocabulary(parent) != _vocabulary(model):
            raise DataError(
                f"{self.name}: {parent.folder}", "has another tokenizer than the model to patch",
                "name an aligned model of the same tokenizer",
            )  # fmt: skip
        if self.score_weights == "parent" and any(
            parent.entries[name].shape != model.entries[name].shape if name in parent.entries else True
            for name in model.architecture.linears()
        ):
            raise RecipeError(
                f"{self.name}.score_weights = 'parent'", "the parent's matrices have other shapes", "set it to 'own'"
            )
        return parent

    def pairs(self, parent: Model, model: Model, run: Run) -> list[Pair]:
        """To each prompt the answers of the parent and of the rounded model."""
        questions = self.questions(model, run)
        chosen, rejected = self.answers(parent, questions, run), self.answers(model, questions, run)
        return [Pair(*each) for each in zip(questions, chosen, rejected, strict=True)]

    def _patch(self, model: Model, run: Run) -> MaskedDelta:
        matrices: dict[str, Patchable] = {}
        for name in model.architecture.linears():
            stored = model.stored(name)
            matrices[name] = Merged(stored) if self.delta == "merged" else Separate(stored, self.delta_format)
        return MaskedDelta(matrices, self.rank, self.alpha, run.generator(self.name), run.device)

    def _train(self, patch: MaskedDelta, scoring: _Scoring, every: list[Pair], run: Run) -> None:
        preference = PreferenceLoss(scoring.module, scoring.pairs, self.beta, run.device)
        batch = shuffled(len(scoring.pairs), self.batch, run.generator(f"{self.name} order"))
        anchored = shuffled(len(every), self.batch, run.generator(f"{self.name} anchors"))
        steps = self.epochs * max(1, len(scoring.pairs) // self.batch)
        held = FactorMasks(patch.low_rank, self.tau) if self.mapmask == "row_fraction" else None

        def loss(step: int) -> torch.Tensor:
            if step % self.refresh == 0 and self.tau < 1:
                masks = scoring.masks(patch, step)
                if held is None:
                    patch.masks = masks
                else:
                    held.choose(masks)
            weights = patch.weights()
            preferred = preference(weights, batch(step))
            if self.anchor == 0:
                return preferred
            taught = answered([(every[row].prompt, every[row].chosen) for row in anchored(step)], run.device)
            return preferred + self.anchor * answer_loss(scoring.module, weights, taught)

        losses = minimise(
            patch.factors,
            loss,
            Schedule(steps, self.learning_rate, round(self.warmup * steps)),
            "safety patch",
            run.progress,
            before_update=held.before_update if held else None,
            after_update=held.after_update if held else None,
        )
        run.note("loss", [round(losses[0], 6), round(losses[-1], 6)])

    @classmethod
    def neutral(cls) -> SafetyPatch:
        return cls(tau=0)


@dataclass
class _Scoring:
    """Which weights may change, decided anew every so often."""

    fields: SafetyPatch
    model: Model
    parent: Model
    pairs: list[Pair]
    run: Run

    def __post_init__(self) -> None:
        self.module: Any = self.model.module().to(self.run.device)

    def masks(self, patch: MaskedDelta, step: int) -> dict[str, torch.Tensor]:
        """bool [rows, columns] by name."""
        scores = self._random(patch) if self.fields.mask == "random" else self._snip(patch)
        self.run.progress.say(f"weights scored at step {step}")
        return highest(scores, self.fields.tau, self.fields.compare)

    def _random(self, patch: MaskedDelta) -> dict[str, torch.Tensor]:
        """The same at every scoring, so that no more than the share ever moves."""
        return {name: self.run.uniform(f"{self.fields.name} {name}", mask.shape) for name, mask in patch.masks.items()}

    def _snip(self, patch: MaskedDelta) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            current = patch.weights()
        rows = [
            (pair.prompt, pair.chosen if self.fields.score_answers == "chosen" else pair.rejected)
            for pair in self.pairs[: self.fields.score_prompts]
        ]

        def loss(weights: Mapping[str, torch.Tensor], example: int) -> torch.Tensor:
            return -log_probabilities(self.module, weights, answered([rows[example]], self.run.device)).sum()

        own = self.fields.score_weights == "own"
        weights = current if own else {name: self.parent.tensor(name).to(self.run.device) for name in current}
        return {name: each.cpu() for name, each in snip_scores(loss, len(rows), current, weights).items()}


def _vocabulary(model: Model) -> dict[str, int]:
    return dict(model.tokenizer.get_vocab())


def _reported(after: Model, before: Model, patch: MaskedDelta, run: Run) -> Model:
    """The result, with what was changed and what it costs said and noted."""
    names, weights, changed = list(patch.matrices), 0, 0
    for name in names:
        moved = after.tensor(name) != before.tensor(name)
        weights, changed = weights + moved.numel(), changed + int(moved.sum())
    bits = [8 * sum(each.entries[name].nbytes for name in names) / weights for each in (before, after)]
    run.note("changed", round(changed / weights, 6))
    run.note("bits a weight", [round(each, 4) for each in bits])
    share = f"{changed / weights:.1%} of the linears' weights changed"
    run.progress.say(f"{share}; {bits[0]:.2f} bits a weight before, {bits[1]:.2f} now")
    return after
