"""FAQ: a quantizer calibrated on text that a bigger sibling of the model wrote, rather than on the text as it is.

Each calibration sample is put to the sibling (the "senior"), an expert picks the best of several answers, the winner
goes into the form that the model sees when it serves, and any calibrating quantizer runs on the new rows, which are as
many and as long as the old ones. Nothing in the quantizer changes; on one that reads no data nothing changes at all.
arXiv 2601.11200, which leaves open the size of the groups, the sampling, the expert and the amounts: those defaults are
ours.

The known strong baseline is text that the model wrote itself. So it is always made too, and the receipt says how far
the old and the new rows are from it (1 - cosine of the channels' root mean squares, block by block), next to how far
its own halves are from each other. Whether a smaller distance means a better model is for a measurement to say.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from featherweight.core.data import TokenSet
from featherweight.core.endpoint import Endpoint
from featherweight.core.errors import DataError, RecipeError
from featherweight.core.model import Model
from featherweight.core.regenerate import Expert, Manner, Regenerated, regenerate
from featherweight.core.run import Run
from featherweight.core.sampling import Draw
from featherweight.core.source import open_model
from featherweight.core.technique import Kind, Need, Paper, Technique, build, technique
from featherweight.core.writers import EndpointWriter, LocalWriter, Writer, is_address
from featherweight.measure.activations import activation_distance, channel_sizes
from featherweight.measure.experts import judge, likelihood, rules

SELF, ORIGINAL, SENIOR = "self", "original", "senior"
_STEP_BY_STEP = "Read this text and go on with it. Think step by step.\n\n{sample}"


@technique
class Faq(Technique):
    """Calibrates a quantizer on text that a bigger sibling of the model wrote and an expert picked."""

    kind: ClassVar[Kind] = Kind.QUANTIZE
    paper: ClassVar[Paper] = Paper(
        "2601.11200",
        "FAQ: Mitigating Quantization Error via Regenerating Calibration Data with Family-Aware Quantization",
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    quantizer: str = Field("gptq", description="the quantizer that is calibrated, by name")
    settings: dict[str, Any] = Field(default_factory=dict, description="its fields, e.g. {'format': Q4_0}")
    senior: str = Field(
        SELF,
        description="who writes: a model's folder, file or hub name, the address of an OpenAI-compatible API, "
        "'self' (the model itself), or 'original' (the text as it is, the control)",
    )
    senior_model: str = Field("", description="name of the model behind an address")
    key_file: str = Field("", description="file that holds the key for an address; the key itself is never recorded")
    timeout: float = Field(60.0, gt=0, description="seconds until a silent address counts as dead")
    licence: str = Field("", description="terms of the senior's words; empty = what its model card says")
    family: Literal["same", "any"] = Field(
        "same",
        description="'same' refuses a senior with another tokenizer than the model's; an address has none to see",
    )
    candidates: int = Field(4, ge=1, description="answers a sample, of which the best is taken")
    expert: Literal["likelihood", "rules", "judge"] = Field(
        "likelihood", description="who picks: the model's own mean token log-likelihood, plain rules, or a judge model"
    )
    judge: str = Field(SENIOR, description="who judges: 'senior', 'self', a model, or an address")
    temperature: float = Field(0.7, ge=0, description="of the senior's sampling; 0 = always the likeliest token")
    top_p: float = Field(
        0.9, gt=0, le=1, description="probability that the likeliest tokens to draw from have together"
    )
    share: float = Field(
        0.25, gt=0, lt=1, description="share of a row that the senior is given; its answer has the rest"
    )
    instruction: str = Field(_STEP_BY_STEP, description="what a chat model is asked; '{sample}' is the sample's text")
    normalise: bool = Field(
        True, description="put winners into the model's chat template and leave out what does not fit"
    )
    rounds: int = Field(4, ge=1, description="how often all samples are answered, at most, until the rows are full")

    @model_validator(mode="after")
    def _usable(self) -> Faq:
        inner = build(self.quantizer, self.settings)
        if inner.kind is not Kind.QUANTIZE or isinstance(inner, Faq):
            raise RecipeError(
                f"quantizer = {self.quantizer!r}",
                "is no quantizer to calibrate",
                "name one such as gptq, awq or imatrix",
            )
        if "{sample}" not in self.instruction:
            raise RecipeError("instruction", "does not say where the sample goes", "write {sample} where it belongs")
        return self

    @property
    def plans(self) -> bool:
        return build(self.quantizer, self.settings).plans

    @property
    def follows_plan(self) -> bool:
        return build(self.quantizer, self.settings).follows_plan

    def apply(self, model: Model, run: Run) -> Model:
        inner = build(self.quantizer, self.settings)
        if Need.CALIBRATION not in inner.needs:
            run.progress.say(f"{inner.name} reads no calibration text: nothing is written anew")
            run.note("calibration", {"regenerated": False, "reason": f"{inner.name} reads none"})
            return inner.apply(model, run)
        made = self.regenerated(model, run)
        return inner.apply(model, dataclasses.replace(run, calibration=made.tokens))

    def regenerated(self, model: Model, run: Run) -> Regenerated:
        """The new rows; what they are made of and the comparison with the model's own text go into the receipt."""
        before = run.tokens(self.name)
        own = LocalWriter(model, SELF)
        writer = self._writer(own, run)
        expert = self._expert(model, own, writer, run)
        made = regenerate(before, model.tokenizer, writer, expert, self._manner("regenerated"), run)
        control = regenerate(before, model.tokenizer, own, expert, self._manner("own"), run)
        run.note("calibration", {
            "regenerated": True, "generator": dict(writer.facts) if writer else ORIGINAL, "expert": self.expert,
            "digest": [before.digest, made.tokens.digest], "tokens": [before.count, made.tokens.count],
            "samples": made.samples, "left_out": made.dropped,
        })  # fmt: skip
        run.note("self_generated_control", _compared(model, before, made.tokens, control.tokens, run))
        return made

    def _manner(self, stream: str) -> Manner:
        return Manner(
            self.candidates, Draw(self.temperature, self.top_p), self.share, self.instruction, self.normalise,
            self.rounds, stream,
        )  # fmt: skip

    def _writer(self, own: LocalWriter, run: Run) -> Writer | None:
        """Who writes; None = nobody, for the control on the text as it is."""
        if self.senior == ORIGINAL:
            return None
        writer = self._open(self.senior, own)
        if self.family == "same" and writer.tokenizer is not None:
            _require_family(own.tokenizer, writer, run.tokens(self.name))
        return dataclasses.replace(writer, terms=self.licence)

    def _open(self, name: str, own: LocalWriter) -> LocalWriter | EndpointWriter:
        """The writer of a name that `senior` or `judge` may have."""
        if name == SELF:
            return own
        if is_address(name):
            return EndpointWriter(Endpoint(name, self.senior_model, self._key(), self.timeout))
        return LocalWriter(open_model(name), Path(name).name)

    def _key(self) -> str:
        if not self.key_file:
            return ""
        try:
            return Path(self.key_file).read_text(encoding="utf-8").strip()
        except OSError:
            raise RecipeError(f"key_file {self.key_file!r}", "cannot be read", "write the key into that file") from None

    def _expert(self, model: Model, own: LocalWriter, writer: Writer | None, run: Run) -> Expert:
        if self.expert == "likelihood":
            return likelihood(model, run)
        if self.expert == "rules":
            return rules()
        return judge((writer or own) if self.judge == SENIOR else self._open(self.judge, own), run)

    @classmethod
    def neutral(cls) -> Faq:
        return cls(settings={"format": "keep"}, senior=ORIGINAL, candidates=1, expert="rules", normalise=False)


def _require_family(tokenizer: Any, writer: Writer, tokens: TokenSet) -> None:
    """Refuses a senior that reads the calibration text as other tokens than the model does."""
    for row in tokens.ids[:4].tolist():
        text = tokenizer.decode(row, skip_special_tokens=True)
        ids = [each(text, add_special_tokens=False)["input_ids"] for each in (tokenizer, writer.tokenizer)]
        if ids[0] != ids[1]:
            raise DataError(
                f"senior {writer.name}", "is of another family: it reads the same text as other tokens than the model",
                "choose a sibling of the model, or set family: any",
            )  # fmt: skip


def _compared(model: Model, before: TokenSet, after: TokenSet, own: TokenSet, run: Run) -> dict[str, Any]:
    """Activation distances of the old and the new rows to the model's own text, block by block."""
    count = len(own.documents)
    halves = [channel_sizes(model, own.rows(range(first, count, 2)), run) for first in (0, 1)]
    reference = channel_sizes(model, own, run)
    found = {
        "original": activation_distance(channel_sizes(model, before, run), reference),
        "regenerated": activation_distance(channel_sizes(model, after, run), reference),
        "own_halves": activation_distance(*halves),
    }
    return {
        "digest": own.digest,
        "tokens": own.count,
        "distance": {name: [round(each, 8) for each in values] for name, values in found.items()},
        "mean_distance": {name: round(sum(values) / len(values), 8) for name, values in found.items()},
    }
