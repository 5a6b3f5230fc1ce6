"""Mixed precision: which tensor gets which format, so that the whole fits a number of bytes with the least damage.

Measures what each tensor's rounding costs in each of the runtime's formats (expected KL divergence, `measure.
sensitivity`), then solves a multiple-choice knapsack. It changes no weight: it plans formats, and the quantizer after
it rounds to them.
"""

from __future__ import annotations

import fnmatch
import math
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from featherweight.core.budget import parse_memory
from featherweight.core.model import Model
from featherweight.core.precision import RUNTIME_FORMATS, choose_formats
from featherweight.core.run import Run
from featherweight.core.technique import Kind, Need, Paper, Technique, technique
from featherweight.measure.sensitivity import Sensitivity, sensitivities


@technique
class MixedPrecision(Technique):
    """Plans one format a tensor so that all fit a number of bytes with the least expected damage."""

    kind: ClassVar[Kind] = Kind.QUANTIZE
    paper: ClassVar[Paper] = Paper("", "Multiple-choice knapsack over measured Fisher-weighted rounding errors")
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    memory: Annotated[int | float, BeforeValidator(parse_memory)] = Field(
        0.3,
        description="bytes of all tensors ('85MB'), or a share of the model in bf16 ('30%'); a file's header is extra",
    )
    runtime: Literal["gguf", "compressed-tensors"] = Field("gguf", description="whose formats to choose from")
    formats: tuple[str, ...] = Field((), description="formats to choose from instead of all that the runtime has")
    rounding: Literal["feedback", "nearest"] = Field(
        "feedback", description="the rounding whose damage is measured: that of gptq, or that of imatrix"
    )
    rows: int = Field(12, ge=2, description="calibration rows to measure on")
    favour: dict[str, float] = Field(
        default_factory=dict, description="factors on the expected damage by name pattern, e.g. {'*down_proj*': 2.0}"
    )

    @property
    def plans(self) -> bool:
        return True

    def apply(self, model: Model, run: Run) -> Model:
        table = self.measure(model, run)
        return model.with_changes(planned=self.solve(model, table))

    def measure(self, model: Model, run: Run) -> Sensitivity:
        """The table of expected damage, found in the run's store or measured."""
        tokens = run.tokens(self.name).spread(self.rows)
        return sensitivities(model, tokens, self.choices(), run, [self.rounding])[self.rounding]

    def choices(self) -> tuple[str, ...]:
        return self.formats or RUNTIME_FORMATS[self.runtime]

    def solve(self, model: Model, table: Sensitivity) -> dict[str, str]:
        """The formats, by parameter name.

        Raises:
            BudgetError: the smallest formats do not fit.
        """
        budget = self.memory if isinstance(self.memory, int) else int(self.memory * model.bf16_bytes())
        shapes = {name: entry.shape for name, entry in model.entries.items()}
        table = {name: self._favoured(name, row) for name, row in table.items()}
        return choose_formats(table, shapes, self.runtime, budget)

    def _favoured(self, name: str, row: dict[str, float]) -> dict[str, float]:
        factor = math.prod(value for pattern, value in self.favour.items() if fnmatch.fnmatchcase(name, pattern))
        return {kind: damage * factor for kind, damage in row.items()}

    @classmethod
    def neutral(cls) -> MixedPrecision:
        """Plans BF16 for everything, which any later quantizer leaves to the export."""
        return cls(memory=1.0, formats=("Q8_0",), rounding="nearest", rows=2)
