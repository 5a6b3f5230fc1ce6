"""What a GPart adapter is: the fields that a person sets, and those that the adapter's base fills in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import peft

from featherweight.core.errors import AdapterError
from featherweight.core.partition import require_version

NAME = "GPART"
SCOPES = ("model", "transformer_block")


@dataclass
class GPartConfig(peft.PeftConfig):
    """Settings of an adapter of one trained vector, whose numbers are shared out over all adapted weights.

    The seed and the back end are part of the adapter: the same vector with others is another change of the weights.

    Attributes:
        target_modules: names or ends of names of linears, a regular expression, "all-linear"; None = PEFT's choice.
        exclude_modules: names, ends of names or a regular expression of what is left out.
        layers_to_transform: numbers of the blocks that are adapted; None = all.
        layers_pattern: what the list of blocks is called, for `layers_to_transform`.
        modules_to_save: modules that are trained and saved whole, such as a head.
        dimension: d, how many numbers are trained; at most the number of adapted weights.
        seed: decides which weights share a number.
        backend: how weights are put in groups, see `core.partition`; "fastfood" is a control without groups.
        backend_version: of the back end.
        isometric: divide by the root of a group's size, so that the map keeps lengths.
        scope: "model", or "transformer_block" for groups within each block, which gets its share of d.
        include_bias: adapt the biases of the targets too.
        dropout: share of the entries of the weights' change that a training step leaves out.
        init_bound: the vector starts uniform within plus and minus this; 0 = zeros, which is safe here.
        layout: names and sizes of the adapted modules, in order; filled in.
        partition_digest: tells the groups from others; filled in.
        base_digest: tells the adapted weights of the base from others; filled in, and null = not compared.
    """

    target_modules: Any = None
    exclude_modules: Any = None
    layers_to_transform: Any = None
    layers_pattern: Any = None
    modules_to_save: list[str] | None = None
    dimension: int = 16384
    seed: int = 42
    backend: str = "stateless"
    backend_version: int = 1
    isometric: bool = True
    scope: str = "model"
    include_bias: bool = False
    dropout: float = 0.0
    init_bound: float = 0.0
    layout: list[list[Any]] | None = None
    partition_digest: str | None = None
    base_digest: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = peft.PeftType[NAME]
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list | tuple) else value)
        require_version(self.backend, self.backend_version)
        self._require(0 <= self.dropout < 1, "dropout", "is not from 0 to below 1", "use 0.05")
        self._require(self.init_bound >= 0, "init_bound", "is below 0", "use 0")
        self._require(self.dimension > 0, "dimension", "is no positive number", "use some thousands")
        self._require(self.scope in SCOPES, "scope", "is unknown", f"use one of {', '.join(SCOPES)}")
        plain = self.backend != "fastfood" or self.isometric
        self._require(plain, "isometric", "means nothing to fastfood, which has no groups", "leave it at true")
        listed = not (isinstance(self.target_modules, str) and self.layers_to_transform is not None)
        self._require(listed, "layers_to_transform", "needs target modules that are listed", "list their names")

    def _require(self, condition: bool, name: str, why: str, mend: str) -> None:
        if not condition:
            raise AdapterError(f"{name}={getattr(self, name)!r}", why, mend)
