"""MatryoshkaLoRA as a PEFT method: one adapter that serves at every rank up to its own (arXiv 2605.07850).

`MatryoshkaLoraConfig` goes into `peft.get_peft_model` like any other; importing this registers the method, so that
`PeftModel.from_pretrained` reads its folders. Then

    model.set_rank(8)                                              # all rows at rank 8
    model.set_rank([32, 4, 0])                                     # a rank for each row; 0 = the base model
    model(..., adapter_names=["support@8", "__base__", "legal@2"]) # adapter and rank by row, as PEFT's mixed batches

The configuration holds the ranks, the scaling, the objective and how it is served; the weights of the components are
made from them (`core.nested`). `lora_alpha` is s_R * R, so that whoever reads the factors as a plain LoRA of full rank
sees what `drop_weight` serves. `scaling` is per adapter, ranks and weights are per layer: a `rank_pattern` is fine.
Refused: what changes the function in another way (DoRA, rsLoRA, bias, initialisations from the base's own weights),
embeddings and convolutions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig, LoraModel, PeftType
from peft.tuners.lora.layer import Linear, LoraLayer

from featherweight.core.errors import AdapterError, RecipeError
from featherweight.core.nested import SCALINGS, check_ranks, powers_of_two, scale
from featherweight.models.matryoshka_layer import NestedRanks, Rank, Served, checked_rank
from featherweight.models.peft_method import register

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
    scaling: str = field(default="none", metadata={"help": "Scale of rank r: 'none' 1, 'rank' 1/r, 'sqrt' 1/sqrt(r)."})
    objective: str = field(default="sum_of_losses", metadata={"help": "sum_of_outputs, sum_of_losses or sampled."})
    serve: str = field(default="drop_weight", metadata={"help": "drop_weight or keep_weight."})
    divide_by_ranks: bool = field(default=False, metadata={"help": "Divide the weights P by the number of ranks."})
    frozen: bool = field(default=False, metadata={"help": "A sampled rank trains only what it adds to the one below."})
    init: str = field(default="peft", metadata={"help": "Start of A: 'peft' or 'paper'."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Follows from r and the scaling."})  # type: ignore

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[NAME.upper()]
        self._require_known()
        self.ranks = list(check_ranks(self.ranks, self.r)) if self.ranks is not None else None
        self.lora_alpha = self._derived("lora_alpha", self.lora_alpha, self._alpha(self.r))
        alphas = {name: self._alpha(rank) for name, rank in self.rank_pattern.items()}
        self.alpha_pattern = self._derived("alpha_pattern", self.alpha_pattern or None, alphas)

    @property
    def nested_ranks(self) -> tuple[int, ...]:
        """S."""
        return powers_of_two(self.highest_rank) if self.ranks is None else tuple(self.ranks)

    @property
    def highest_rank(self) -> int:
        """Of all layers."""
        return max([self.r, *self.rank_pattern.values()])

    def _alpha(self, rank: int) -> float:
        return scale(rank, self.scaling) * rank  # type: ignore[arg-type]

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


class MatryoshkaLoraModel(LoraModel):
    """PEFT's LoRA model with nested ranks in every layer."""

    def _create_and_replace(
        self, lora_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, *rest: Any, **more: Any
    ) -> None:
        super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, *rest, **more)
        layer = getattr(parent, target_name)
        if not isinstance(layer, Linear) and type(layer).__name__ not in ("Linear8bitLt", "Linear4bit"):
            raise AdapterError(f"the layer {target_name}", f"is a {type(target).__name__}", "target linear layers")
        rank, least = layer.r[adapter_name], min(layer.in_features, layer.out_features)
        if rank > least:
            raise AdapterError(
                f"rank {rank} in the layer {target_name}", f"which has {layer.in_features} inputs and "
                f"{layer.out_features} outputs", f"use a rank of at most {least}",
            )  # fmt: skip
        layer.lora_variant[adapter_name] = NestedRanks(lora_config, rank)
        if lora_config.init == "paper" and lora_config.init_lora_weights is True:
            _paper_init(layer.lora_A[adapter_name].weight)

    def set_rank(self, rank: int | Sequence[int] | None, adapter: str | None = None) -> None:
        """Serves at a rank, or at one for each row of a batch, from now on.

        Args:
            rank: 0 to the adapter's rank, of all rows or by row; 0 = the base model; None = the highest, and in
                training mode the function that the objective trains.
            adapter: its name; None = those that are active.

        Raises:
            AdapterError: the adapter has no such rank, or is merged.
        """
        for name in [adapter] if adapter else self.active_adapters:
            self._serve(name, Served(checked_rank(rank, self._highest(name))))

    @contextmanager
    def at_rank(self, rank: Rank, adapter: str | None = None, learns_from: int = 0) -> Iterator[None]:
        """Serves at a rank while it is open.

        Args:
            rank: as in `set_rank`, or "trained" for the function that the objective trains.
            adapter: its name; None = those that are active.
            learns_from: components before this one get no gradient.
        """
        names = [adapter] if adapter else self.active_adapters
        before = {name: self._variants(name)[0].served for name in names}
        for name in names:
            wanted = rank if rank == "trained" else checked_rank(rank, self._highest(name))
            self._serve(name, Served(wanted, learns_from))
        try:
            yield
        finally:
            for name, served in before.items():
                self._serve(name, served)

    def _serve(self, adapter: str, served: Served) -> None:
        layers = [module for module in self.modules() if isinstance(module, LoraLayer)]
        if any(adapter in layer.merged_adapters for layer in layers):
            raise AdapterError(f"the adapter {adapter!r}", "is merged into the weights", "call unmerge_adapter() first")
        for variant in self._variants(adapter):
            variant.served = served

    def _variants(self, adapter: str) -> list[NestedRanks]:
        layers = (module for module in self.modules() if isinstance(module, LoraLayer))
        found = [layer.lora_variant[adapter] for layer in layers if adapter in layer.lora_variant]
        if not found:
            raise AdapterError(f"adapter {adapter!r}", "is unknown", f"use one of {', '.join(self.peft_config)}")
        return found

    def _highest(self, adapter: str) -> int:
        return max(variant.rank for variant in self._variants(adapter))

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        names, ranks = self._split(kwargs.get("adapter_names"))
        repeats = max(int(kwargs.get(each) or 1) for each in ("num_beams", "num_return_sequences"))
        with ExitStack() as opened:
            for adapter, rows in ranks.items():
                opened.enter_context(self.at_rank(tuple(rows), adapter))
            for variant in (each for adapter in self.peft_config for each in self._variants(adapter)):
                opened.callback(setattr, variant, "repeats", variant.repeats)
                variant.repeats = repeats
            opened.enter_context(super()._enable_peft_forward_hooks(*args, **{**kwargs, "adapter_names": names}))
            yield

    def _split(self, names: Sequence[str] | None) -> tuple[list[str] | None, dict[str, list[int]]]:
        """Names without ranks, and for every adapter that is named with one, the ranks of its own rows in turn."""
        if names is None:
            return None, {}
        parts = [name.partition("@") for name in names]
        ranked = {name for name, mark, _ in parts if mark}
        ranks: dict[str, list[int]] = defaultdict(list)
        for name, mark, rank in parts:
            if mark and not rank.isdigit():
                raise AdapterError(f"adapter {name}@{rank}", "has no number after the @", "write for example a@8")
            if name in ranked:
                ranks[name].append(int(rank) if mark else self._current(name))
        return [name for name, _, _ in parts], dict(ranks)

    def _current(self, adapter: str) -> int:
        served = self._variants(adapter)[0].served.rank
        return served if isinstance(served, int) else self._highest(adapter)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Not possible: a mixture of nested adapters is not nested.

        Raises:
            AdapterError: always.
        """
        raise AdapterError(
            "add_weighted_adapter", "a mixture of nested adapters has no order of components",
            "export each at a rank as plain LoRA, and mix those",
        )  # fmt: skip


def _paper_init(a: torch.Tensor) -> None:
    """Uniform within 1/sqrt(r): the paper's code draws the transposed tensor, whose fan-in is the rank."""
    if a.device.type != "meta":
        bound = a.shape[0] ** -0.5
        torch.nn.init.uniform_(a, -bound, bound)


register(NAME, MatryoshkaLoraConfig, MatryoshkaLoraModel)
