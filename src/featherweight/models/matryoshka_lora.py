"""MatryoshkaLoRA as a PEFT method: one adapter that serves at every rank up to its own (arXiv 2605.07850).

`MatryoshkaLoraConfig` goes into `peft.get_peft_model` like any other; importing this registers the method, so that
`PeftModel.from_pretrained` reads its folders. Then

    model.set_rank(8)                                              # all rows at rank 8
    model.set_rank([32, 4, 0])                                     # a rank for each row; 0 = the base model
    model(..., adapter_names=["support@8", "__base__", "legal@2"]) # adapter and rank by row, as PEFT's mixed batches

The configuration (`matryoshka_config`) holds the ranks, the scaling, the objective and how it is served; the weights of
the components are made from them (`core.nested`). `lora_alpha` is s_R * R, so that whoever reads the
factors as a plain LoRA of full rank sees what `drop_weight` serves. `scaling` is per adapter, ranks and weights are per
layer: a `rank_pattern` is fine.
Refused: what changes the function in another way (DoRA, rsLoRA, bias, initialisations from the base's own weights),
embeddings and convolutions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import LoraModel
from peft.tuners.lora.layer import Linear, LoraLayer

from featherweight.core.errors import AdapterError
from featherweight.models.matryoshka_config import NAME, MatryoshkaLoraConfig
from featherweight.models.matryoshka_layer import NestedRanks, Rank, Served, checked_rank
from featherweight.models.peft_method import register


class MatryoshkaLoraModel(LoraModel):
    """PEFT's LoRA model with nested ranks in every layer."""

    def _create_and_replace(  # type: ignore[override]  # PEFT's own classes name the first argument differently
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, *rest: Any, **more: Any
    ) -> None:
        super()._create_and_replace(peft_config, adapter_name, target, target_name, parent, *rest, **more)
        layer = getattr(parent, target_name)
        if not isinstance(layer, Linear) and type(layer).__name__ not in ("Linear8bitLt", "Linear4bit"):
            raise AdapterError(f"the layer {target_name}", f"is a {type(target).__name__}", "target linear layers")
        rank, least = layer.r[adapter_name], min(layer.in_features, layer.out_features)
        if rank > least:
            raise AdapterError(
                f"rank {rank} in the layer {target_name}", f"which has {layer.in_features} inputs and "
                f"{layer.out_features} outputs", f"use a rank of at most {least}",
            )  # fmt: skip
        layer.lora_variant[adapter_name] = NestedRanks(peft_config, rank)
        if peft_config.init == "paper" and peft_config.init_lora_weights is True:
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
        layers: list[Any] = [module for module in self.modules() if isinstance(module, LoraLayer)]
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
            if repeats > 1:
                opened.enter_context(self._repeated(repeats))
            opened.enter_context(super()._enable_peft_forward_hooks(*args, **{**kwargs, "adapter_names": names}))
            yield

    @contextmanager
    def _repeated(self, times: int) -> Iterator[None]:
        """While it is open, a layer may get every row of a batch several times over, as a search with beams does."""
        variants = [variant for adapter in self.peft_config for variant in self._variants(adapter)]
        try:
            for variant in variants:
                variant.repeats = times
            yield
        finally:
            for variant in variants:
                variant.repeats = 1

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
