"""One layer of a MatryoshkaLoRA: a LoRA whose first r components are an adapter of rank r, for every r up to its own.

It is what PEFT calls a variant: the factors stay PEFT's `lora_A` and `lora_B`, so saving, loading, dtypes and devices
are PEFT's; only the function differs. With w one weight per component (see `core.nested`),

    forward(x) = W x + B[:, :r] (w * A[:r] x),    w = s_r (drop_weight) or P_1..P_r (keep_weight)

and while it trains for the sum of nested outputs, w = P over all components. Rows of a batch can have ranks of their
own. Works on every layer whose LoRA factors are linears; those of bitsandbytes follow the same protocol and are
untested here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from featherweight.core.errors import AdapterError
from featherweight.core.nested import component_weights, ranks_within, scale

if TYPE_CHECKING:
    from featherweight.models.matryoshka_config import MatryoshkaLoraConfig

Rank = int | tuple[int, ...] | Literal["trained"] | None
"""What is served: a rank, one for each row, the function that is trained, or (None) whatever suits the mode."""


@dataclass(frozen=True)
class Served:
    """What a layer computes at the moment.

    Attributes:
        rank: see `Rank`; None = the trained function in training mode, the highest rank otherwise.
        learns_from: components before this one get no gradient.
    """

    rank: Rank = None
    learns_from: int = 0


class NestedRanks:
    """The function of one adapter in one layer; plain numbers, nothing of it is in a state dict.

    PEFT calls the methods of its `LoraVariant`, with the layer as `module`; being of that class would make them static.

    Args:
        config: of the adapter.
        rank: of this layer, which a `rank_pattern` may make another one than the adapter's.
    """

    def __init__(self, config: MatryoshkaLoraConfig, rank: int) -> None:
        self.rank = rank
        self.config = config
        self.ranks = ranks_within(config.nested_ranks, rank)
        self.served = Served()
        self.repeats = 1  # times that a search gives every row of a batch

    def init(self, module: Any, adapter_name: str, **rest: Any) -> None:
        """Nothing: what there is to set up is set up when the variant is attached."""

    def supports_lora_conversion(self) -> bool:
        """PEFT converts by a weight that knows no variant; `export_rank` is exact instead."""
        return False

    def weights(self, served: Rank) -> list[float]:
        """One weight per component that is used, [rank]; the same for all rows."""
        rank = min(served, self.rank) if isinstance(served, int) else self.rank
        summed = served == "trained" and self.config.objective == "sum_of_outputs"
        if summed or self.config.serve == "keep_weight":
            divide = self.config.divide_by_ranks
            return component_weights(self.rank, self.ranks, self.config.scaling, divide)[:rank]
        return [scale(rank, self.config.scaling)] * rank if rank else []

    def forward(
        self, module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **rest: Any
    ) -> torch.Tensor:
        """The layer's output: `result`, the base layer's, and what the adapter adds."""
        served = "trained" if self.served.rank is None and module.training else self.served.rank
        weights = self._of_rows(served, x) if isinstance(served, tuple) else x.new_tensor(self.weights(served))
        rank = weights.shape[-1]
        if rank == 0:
            return result
        a = self._learning(module.lora_A[active_adapter].weight[:rank], 0)
        b = self._learning(module.lora_B[active_adapter].weight[:, :rank], 1)
        hidden = torch.nn.functional.linear(module.lora_dropout[active_adapter](x), a)
        hidden = hidden * (weights * self._gain(module, active_adapter))
        return result + torch.nn.functional.linear(hidden, b)

    def _of_rows(self, ranks: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
        """[rows of x, 1, …, rank]; a search gives every row several times over, its beams."""
        if len(x) not in (len(ranks), len(ranks) * self.repeats):
            raise AdapterError(
                f"ranks of {len(ranks)} rows", f"a layer got an input of {len(x)} rows", "give one rank for each row"
            )
        table = [self.weights(rank) for rank in ranks]
        width = max(map(len, table))
        padded = x.new_tensor([row + [0.0] * (width - len(row)) for row in table])
        rows = padded.repeat_interleave(len(x) // len(ranks), 0)
        return rows.reshape(len(x), *[1] * (x.dim() - 2), width)

    def _learning(self, factor: torch.Tensor, dim: int) -> torch.Tensor:
        """A factor whose frozen components are cut off from the gradient."""
        first = min(self.served.learns_from, factor.shape[dim])
        frozen, trained = factor.split([first, factor.shape[dim] - first], dim)
        return torch.cat([frozen.detach(), trained], dim) if first else factor

    def _gain(self, module: Any, adapter: str) -> float:
        """What PEFT's `scale_layer` and its like have made of the scale; 1 where nobody touched it."""
        return float(module.scaling[adapter] / scale(self.rank, self.config.scaling))

    def delta(self, module: Any, adapter: str) -> torch.Tensor:
        """What the served rank adds to the weight, in the weight's own layout."""
        served = self.served.rank
        if isinstance(served, tuple):
            raise AdapterError("ranks by row", "cannot be merged into one weight", "set one rank for all rows first")
        a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        half = a.device.type == "cpu" and a.dtype in (torch.float16, torch.bfloat16)  # slow and coarse there
        a, b = (a.float(), b.float()) if half else (a, b)
        weights = torch.tensor(self.weights(served), device=a.device, dtype=a.dtype) * self._gain(module, adapter)
        rank = len(weights)
        product: torch.Tensor = (b[:, :rank] * weights) @ a[:rank]
        return product.T if getattr(module, "fan_in_fan_out", False) else product

    def merge_safe(self, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """The weight with the adapter in it."""
        return orig_weight + self.delta(module, active_adapter).to(orig_weight.dtype)

    def merge_unsafe(self, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> None:
        """Adds the adapter to the weight in place."""
        orig_weight.data += self.delta(module, active_adapter).to(orig_weight.dtype)

    def unmerge(self, module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """The weight without the adapter."""
        return orig_weight.data - self.delta(module, active_adapter).to(orig_weight.dtype)


def checked_rank(rank: int | Sequence[int] | None, highest: int) -> Rank:
    """A rank, or a rank for each row, as a layer wants it; 0 = without the adapter.

    Raises:
        AdapterError: a rank that the adapter does not have.
    """
    wanted = () if rank is None else (rank,) if isinstance(rank, int) else tuple(rank)
    wrong = [each for each in wanted if not 0 <= each <= highest]
    if wrong:
        raise AdapterError(
            f"rank {wrong[0]}", f"the adapter has ranks up to {highest}", f"give 1 to {highest}, or 0 for the base"
        )
    return rank if rank is None or isinstance(rank, int) else wanted
