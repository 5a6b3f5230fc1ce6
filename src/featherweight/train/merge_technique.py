"""What every technique that merges fine-tunes shares: which, how much of each, and cosines before anything is merged.

A technique turns a model into a model: the model that it is given is the base. `apply` opens the deltas, measures their
inner products, says what these mean, and returns a model whose tensors are computed when they are read. The verbs
`merge` and `unmerge` go the same way with deltas that they have opened themselves.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from featherweight.core.combining import with_sums
from featherweight.core.cosine_words import sentences
from featherweight.core.delta_sources import open_deltas, source_digest
from featherweight.core.deltas import Delta
from featherweight.core.errors import RecipeError
from featherweight.core.gram import Grams, measure_grams
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.technique import Kind, Technique

Dtype = Literal["float32", "bfloat16", "float16"]
Weight = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class MergeTechnique(Technique):
    """Base of the techniques that merge fine-tunes of one model."""

    kind: ClassVar[Kind] = Kind.MERGE
    by_model: ClassVar[tuple[str, ...]] = ("models", "weight")
    subtracts: ClassVar[bool] = False

    models: tuple[str, ...] = Field(
        (), description="fine-tuned models, LoRA folders or task-vector files, in the order in which they arrived"
    )
    weight: Weight | tuple[Weight, ...] = Field(1.0, description="how much of each change; one number, or one a model")
    dtype: Dtype | None = Field(
        None, description="number type of the result; none = that of the base, tensor by tensor"
    )

    @model_validator(mode="after")
    def _one_a_model(self) -> Self:
        for name in self.by_model:
            values = getattr(self, name)
            if isinstance(values, tuple) and values and len(values) != len(self.models):
                raise RecipeError(
                    f"{name} = {list(values)}", f"are {len(values)} values for {len(self.models)} models",
                    "give one for all, or one a model in their order",
                )  # fmt: skip
        return self

    def each(self, field: str) -> list[float]:
        """A field's value for every model."""
        values = getattr(self, field)
        return [float(each) for each in values] if isinstance(values, tuple) else [float(values)] * len(self.models)

    def of(self, kept: Sequence[int]) -> Self:
        """The same technique with some of its models."""
        fields = {name: getattr(self, name) for name in self.by_model if isinstance(getattr(self, name), tuple)}
        chosen = {name: tuple(values[index] for index in kept) for name, values in fields.items() if values}
        return type(self)(**{**self.model_dump(), **chosen})

    def outside(self) -> dict[str, str]:
        return {f"models {index}": source_digest(each) for index, each in enumerate(self.models)}

    def apply(self, model: Model, run: Run) -> Model:
        if not self.models:
            return model
        deltas = open_deltas(self.models, model)
        grams = self.compared(model, deltas, run)
        return self.merged(model, deltas, grams, self.weights(model, deltas, grams, run), run)

    def compared(self, model: Model, deltas: Sequence[Delta], run: Run) -> Grams:
        """Inner products of the deltas; what they mean is said and noted before anything is merged."""
        grams = measure_grams(model, deltas, run.progress)
        found = {f"{pair.one}, {pair.other}": pair.cosine for pair in grams.pairs()}
        run.note(
            "cosines", {names: None if math.isnan(cosine) else round(cosine, 6) for names, cosine in found.items()}
        )
        run.note("norms", [round(norm, 6) for norm in grams.norms])
        for sentence in sentences(grams):
            run.progress.say(sentence)
        return grams

    def weights(self, model: Model, deltas: Sequence[Delta], grams: Grams, run: Run) -> list[float]:
        """How much of each delta is merged."""
        return self.each("weight")

    @abstractmethod
    def merged(self, model: Model, deltas: Sequence[Delta], grams: Grams, weights: Sequence[float], run: Run) -> Model:
        """The merged model."""

    @classmethod
    def neutral(cls) -> Self:
        return cls(models=())


class SummingMerge(MergeTechnique):
    """Base of those whose result is share * theta_0 + sum of a_i Q_i, each Q_i a combination of deltas."""

    subtracts: ClassVar[bool] = True

    def basis(self, grams: Grams) -> dict[str, torch.Tensor]:
        """Q_i = sum of C_ij D_j: C by tensor, float64 [deltas, deltas]."""
        same = torch.eye(len(grams.names), dtype=torch.float64)
        return dict.fromkeys(grams.by_tensor, same)

    def scaled(self, weights: Sequence[float]) -> list[float]:
        """What the Q_i are multiplied by."""
        return list(weights)

    def share(self, weights: Sequence[float]) -> float:
        """What the base is multiplied by."""
        return 1.0

    def coefficients(self, grams: Grams, weights: Sequence[float]) -> dict[str, list[float]]:
        """What the deltas are multiplied by, by tensor."""
        row = torch.tensor(self.scaled(weights), dtype=torch.float64)
        return {name: (row @ matrix).tolist() for name, matrix in self.basis(grams).items()}

    def merged(self, model: Model, deltas: Sequence[Delta], grams: Grams, weights: Sequence[float], run: Run) -> Model:
        return with_sums(model, deltas, self.coefficients(grams, weights), self.share(weights), self.dtype)
