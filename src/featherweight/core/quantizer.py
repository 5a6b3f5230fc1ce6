"""What every quantizer shares: which tensor goes to which number format.

A quantizer either follows the formats that an earlier step planned, or is told one format for all linears, one for the
embedding and head, and exceptions by name pattern.
"""

from __future__ import annotations

import fnmatch
from typing import ClassVar

from pydantic import Field, field_validator

from featherweight.core.architecture import EMBEDDING, HEAD
from featherweight.core.errors import FormatError, RecipeError
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.technique import Kind, Technique

PLANNED, KEEP = "planned", "keep"

# What llama.cpp itself takes when rows are no multiple of 256.
_SHORT_ROWS = {
    "Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip


class Quantizer(Technique):
    """Base of the techniques that round weights onto number formats."""

    kind: ClassVar[Kind] = Kind.QUANTIZE

    format: str = Field(
        PLANNED,
        description="format of all linears, e.g. Q4_0 or int4-g64; 'planned' follows mixed-precision, 'keep' none",
    )
    embedding: str = Field(KEEP, description="format of the embedding and the head when `format` names one")
    overrides: dict[str, str] = Field(
        default_factory=dict, description="formats by parameter-name pattern, e.g. {'*.down_proj.weight': Q6_K}"
    )

    @field_validator("format", "embedding")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (PLANNED, KEEP):
            _checked(value)
        return value

    @field_validator("overrides")
    @classmethod
    def _all_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value.values():
            if name != KEEP:
                _checked(name)
        return value

    @property
    def follows_plan(self) -> bool:
        return self.format == PLANNED

    def targets(self, model: Model) -> dict[str, str]:
        """The formats to round to, by parameter name; tensors that stay as they are are left out.

        Raises:
            RecipeError: formats should follow a plan and there is none.
            FormatError: a tensor's rows do not fit the format asked for.
        """
        if self.format == PLANNED and not model.planned:
            raise RecipeError(
                f"{self.name}.format = 'planned'", "no earlier step planned formats",
                "put mixed-precision before it, or name a format such as Q4_0",
            )  # fmt: skip
        chosen = {name: self._choice(name, model) for name in model.architecture.quantizable()}
        return {
            name: fitting(target, model.entries[name].shape, name)
            for name, target in chosen.items()
            if target not in (KEEP, model.entries[name].format)
        }

    def _choice(self, name: str, model: Model) -> str:
        for pattern, target in self.overrides.items():
            if fnmatch.fnmatchcase(name, pattern):
                return target
        if self.format == PLANNED:
            return model.planned.get(name, KEEP)
        return self.embedding if name in (EMBEDDING, HEAD) else self.format


def _checked(name: str) -> None:
    try:
        get(name)
    except FormatError as error:
        raise ValueError(f"{error.why}; {error.mend}") from None


def fitting(target: str, shape: tuple[int, ...], name: str) -> str:
    """`target`, or what llama.cpp takes instead when the rows are too short for a K-quant."""
    if not get(target).accepts(shape) and target in _SHORT_ROWS:
        target = _SHORT_ROWS[target]
    get(target).require(shape, name)
    return target
