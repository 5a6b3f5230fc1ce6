"""The configuration of a MatryoshkaLoRA: PEFT's of a LoRA, and what makes its ranks nested (arXiv 2605.07850).

`lora_alpha` follows from rank and scaling, and is written so that whoever reads the factors as a plain LoRA of full
rank sees what `drop_weight` serves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from peft import LoraConfig, PeftType

from featherweight.core.errors import RecipeError
from featherweight.core.nested import SCALINGS, Scaling, check_ranks, powers_of_two, scale

NAME = "matryoshka_lora"
Objective = Literal["sum_of_outputs", "sum_of_losses", "sampled"]
Serve = Literal["drop_weight", "keep_weight"]
Init = Literal["peft", "paper"]
_OTHER_FUNCTIONS = (
    "use_rslora", "use_dora", "use_qalora", "use_bdlora", "lora_bias", "arrow_config", "alora_invocation_tokens",
    "velora_config", "monteclora_config", "kasa_config", "target_parameters", "layer_replication",
)  # fmt: skip


@dataclass
class MatryoshkaLoraConfig(LoraConfig):
    """PEFT's LoRA configuration and what makes the ranks nested.

    Attributes:
        ranks: S; None = the powers of two up to r.
        scaling: s_r, 1, 1/r or 1/sqrt(r).
        objective: what training minimises; only the sum of outputs changes what the layers compute meanwhile.
        serve: whether a component is weighted by s_r alone (the paper) or keeps its weight P_i.
        divide_by_ranks: whether P is divided by the number of ranks.
        frozen: whether a sampled rank trains only the components that the next lower rank lacks.
        init: A uniform within 1/sqrt(in) as PEFT has it, or within 1/sqrt(r) as the paper's code has it.
        lora_alpha: s_r * r for r the adapter's rank; nothing to choose.
    """

    ranks: list[int] | None = field(default=None, metadata={"help": "Ranks that are trained; none = powers of two."})
    scaling: Scaling = field(default="none", metadata={"help": "none: 1, rank: 1/r, sqrt: 1/sqrt(r)."})
    objective: str = field(default="sum_of_losses", metadata={"help": "sum_of_outputs, sum_of_losses or sampled."})
    serve: str = field(default="drop_weight", metadata={"help": "drop_weight or keep_weight."})
    divide_by_ranks: bool = field(default=False, metadata={"help": "Divide the weights P by the number of ranks."})
    frozen: bool = field(default=False, metadata={"help": "A sampled rank trains only what it adds to the one below."})
    init: str = field(default="peft", metadata={"help": "Start of A: 'peft' or 'paper'."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Follows from r and the scaling."})  # type: ignore

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType[NAME.upper()]
        self._require_known()
        self.ranks = list(check_ranks(self.ranks, self.r)) if self.ranks is not None else None
        self.lora_alpha = self._derived("lora_alpha", self.lora_alpha, self._alpha(self.r))
        alphas = {name: self._alpha(rank) for name, rank in (self.rank_pattern or {}).items()}
        self.alpha_pattern = self._derived("alpha_pattern", self.alpha_pattern or None, alphas)

    @property
    def nested_ranks(self) -> tuple[int, ...]:
        """S."""
        return powers_of_two(self.highest_rank) if self.ranks is None else tuple(self.ranks)

    @property
    def highest_rank(self) -> int:
        """Of all layers."""
        return max(int(rank) for rank in [self.r, *(self.rank_pattern or {}).values()])

    def _alpha(self, rank: int) -> float:
        return scale(rank, self.scaling) * rank

    def _derived(self, name: str, given: Any, value: Any) -> Any:
        same = given is None or (given == value if isinstance(value, dict) else math.isclose(given, value))
        if not same:
            raise RecipeError(
                f"{name} = {given!r}", f"a MatryoshkaLoRA has {value!r} here, which follows from r and the scaling",
                "leave it out, or use another scaling",
            )  # fmt: skip
        return value

    def _require_known(self) -> None:
        allowed = {
            "scaling": SCALINGS, "objective": get_args(Objective), "serve": get_args(Serve), "init": get_args(Init),
            "init_lora_weights": (True, False, "gaussian", "orthogonal"),
        }  # fmt: skip
        for name, known in allowed.items():
            if getattr(self, name) not in known:
                raise RecipeError(f"{name} = {getattr(self, name)!r}", "is unknown", f"use one of {list(known)}")
        other = next((name for name in _OTHER_FUNCTIONS if getattr(self, name, None)), None)
        if other or self.bias != "none":
            raise RecipeError(f"{other or 'bias'} of a MatryoshkaLoRA", "is not supported", "leave it out")
