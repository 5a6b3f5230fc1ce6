"""Merges whose coefficients can be fitted: the fields, the text of each task, and the fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from featherweight.core.chat import write_chat
from featherweight.core.combining import with_sums
from featherweight.core.data import Documents, TokenSet, read_documents, tokenize
from featherweight.core.deltas import Delta
from featherweight.core.errors import RecipeError
from featherweight.core.gram import Grams
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.user_file import digest_of
from featherweight.train.coefficients import Way, fit_coefficients
from featherweight.train.merge_objective import MergeObjective
from featherweight.train.merge_technique import SummingMerge


class FittedMerge(SummingMerge):
    """Base of summing merges whose coefficients can be fitted on small validation sets."""

    by_model: ClassVar[tuple[str, ...]] = ("models", "weight", "validation")

    fit: Way = Field("none", description="how weights are fitted, from those given: by gradient, by cma-es, or not")
    validation: tuple[str, ...] = Field(
        (), description="a .txt or .jsonl file a model, on which its task's loss is measured while fitting"
    )
    replay: int = Field(
        0, ge=0, description="conversations that each fine-tune writes itself and that join its validation text"
    )
    ewc: float = Field(0.0, ge=0, description="strength of the penalty for leaving what matters to each fine-tune")
    fit_steps: int = Field(20, ge=1, description="updates, or generations of cma-es")
    fit_rate: float = Field(0.05, gt=0, description="learning rate of the updates")
    rows: int = Field(16, ge=2, description="token rows a task")
    length: int = Field(128, ge=8, description="tokens of a row")

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if self.fit != "none" and self.models and not self.validation and not self.replay:
            raise RecipeError(
                f"fit = {self.fit}", "has no text to fit on",
                "give validation, a file a model, or replay, conversations that each fine-tune writes",
            )  # fmt: skip
        return self

    def outside(self) -> dict[str, str]:
        files = {f"validation {index}": digest_of(Path(each)) for index, each in enumerate(self.validation)}
        return super().outside() | files

    def weights(self, model: Model, deltas: Sequence[Delta], grams: Grams, run: Run) -> list[float]:
        given = super().weights(model, deltas, grams, run)
        if self.fit == "none":
            return given
        rows = [self._rows(model, deltas, index, run) for index in range(len(deltas))]
        basis = {name: matrix * self._factor(given) for name, matrix in self.basis(grams).items()}
        objective = MergeObjective(model, deltas, basis, rows, self.ewc, run.device, run.progress)
        found = fit_coefficients(objective, self.fit, given, self.fit_steps, self.fit_rate, run.seed, run.progress)
        run.note("fitted", {
            "weights": [round(each, 9) for each in found.weights], "from": round(found.start, 6),
            "to": round(found.end, 6), "evaluations": found.evaluations,
        })  # fmt: skip
        run.progress.say(
            f"fitted {self.fit}: {found.start:.4f} to {found.end:.4f} nats a token with weights "
            f"{', '.join(f'{each:.3f}' for each in found.weights)}"
        )
        return list(found.weights)

    def _factor(self, given: Sequence[float]) -> float:
        """What `scaled` multiplies every weight by; a normalised sum of weights cannot be fitted."""
        return self.scaled([1.0, *[0.0] * (len(given) - 1)])[0]

    def _rows(self, model: Model, deltas: Sequence[Delta], index: int, run: Run) -> TokenSet:
        """The text of a task as token rows."""
        documents: Documents = read_documents(self.validation[index]) if self.validation else {}
        name = deltas[index].name
        if self.replay:
            changed = {each: (1.0,) for each in model.entries if deltas[index].changes(each)}
            own = with_sums(model, [deltas[index]], changed)
            documents = {**documents, "replay": write_chat(own, run, self.replay, self.length)}
        return tokenize(documents, model.tokenizer, self.rows, self.length, f"validation text of {name}")
