"""A linear with the change that a shared vector gives its weight; nothing of the weight's size is kept for backward.

The change is P theta for the weight's stretch of the map P. Forward makes it, uses it and drops it; backward makes it
anew where the input needs a gradient, and adds the weight's gradient up by groups. So only the input and theta are
saved. One dense change and one dense gradient of the layer at hand do exist for a moment: this saves trained numbers
and optimizer state, not arithmetic. Dropout leaves out entries of the change (as in DropConnect); which ones is hashed
from one number drawn in forward, so that backward leaves out the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from featherweight.core.errors import AdapterError
from featherweight.core.partition import LinearMap, chunks
from featherweight.core.splitmix import chosen, splitmix


@dataclass(frozen=True)
class Dropout:
    """Which entries of a change are left out: those that a hash of the seed and the place chooses."""

    seed: int
    share: float

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Values [n] with some set to zero and the others made larger; its own transpose."""
        result = values / (1 - self.share)
        for first, last in chunks(0, len(values)):
            result[first:last].masked_fill_(chosen(splitmix(self.seed, first, last, values.device), self.share), 0)
        return result


@dataclass(frozen=True)
class Stretch:
    """Where a module's entries lie in a map.

    Attributes:
        map: of the whole model, or of one block.
        first: where its part of theta begins.
        start: place of the module's first entry.
        shape: of the weight, as it is stored.
        bias: entries of the bias, right after the weight's.
    """

    map: LinearMap
    first: int
    start: int
    shape: tuple[int, int]
    bias: int = 0

    @property
    def stop(self) -> int:
        """One after the weight's last place."""
        return self.start + self.shape[0] * self.shape[1]

    def part(self, theta: torch.Tensor) -> torch.Tensor:
        """The numbers that this module's map takes."""
        return theta[self.first : self.first + self.map.groups]

    def change(self, part: torch.Tensor, dropout: Dropout | None = None) -> torch.Tensor:
        """The change of the weight, [rows, columns]."""
        values = self.map.expand(part, self.start, self.stop)
        return (dropout(values) if dropout else values).view(self.shape)

    def gradient(self, change: torch.Tensor, dropout: Dropout | None = None) -> torch.Tensor:
        """The gradient of `part`, from that of the change."""
        values = change.reshape(-1)
        return self.map.reduce(dropout(values) if dropout else values, self.start)


class ChangedLinear(torch.autograd.Function):
    """The change's share of a linear's output; see above for what it saves."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, part: torch.Tensor, stretch: Stretch, dropout: Dropout | None, transposed: bool
    ) -> torch.Tensor:
        """Outputs [..., out] of inputs [..., in]; `transposed` where the weight is stored as [in, out]."""
        ctx.stretch, ctx.dropout, ctx.transposed = stretch, dropout, transposed
        ctx.save_for_backward(inputs, part)
        weight = stretch.change(part, dropout).to(inputs.dtype)
        return inputs @ (weight if transposed else weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the inputs and of the vector's part."""
        (gradient,), (inputs, part) = gradients, ctx.saved_tensors
        to_inputs = to_part = None
        if ctx.needs_input_grad[0]:
            weight = ctx.stretch.change(part, ctx.dropout).to(gradient.dtype)
            to_inputs = gradient @ (weight.T if ctx.transposed else weight)
        if ctx.needs_input_grad[1]:
            rows, columns = gradient.flatten(0, -2), inputs.flatten(0, -2)
            change = columns.T @ rows if ctx.transposed else rows.T @ columns
            to_part = ctx.stretch.gradient(change.to(part.dtype), ctx.dropout)
        return to_inputs, to_part, None, None, None


class Expanded(torch.autograd.Function):
    """A stretch of the map's result, of which nothing is saved; for biases."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, linear_map: LinearMap, start: int, stop: int) -> torch.Tensor:
        """Entries [stop - start]."""
        ctx.map, ctx.start = linear_map, start
        return linear_map.expand(part, start, stop)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient of the vector's part."""
        return ctx.map.reduce(gradients[0].contiguous(), ctx.start), None, None, None


changed_linear: Callable[..., torch.Tensor] = ChangedLinear.apply
expanded: Callable[..., torch.Tensor] = Expanded.apply


class GPartLayer(torch.nn.Module, BaseTunerLayer):
    """A linear, and for each adapter the stretch of its map that changes it."""

    adapter_layer_names = ("gpart_theta",)
    other_param_names = ("gpart_stretches", "gpart_dropout")

    def __init__(self, base_layer: torch.nn.Module, theta: torch.nn.ParameterDict) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._shared = (theta,)  # in a tuple: it is the tuner's, and must not be registered once a layer
        self.gpart_stretches: dict[str, Stretch] = {}
        self.gpart_dropout: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.train(base_layer.training)

    @property
    def gpart_theta(self) -> torch.nn.ParameterDict:
        """The vectors of all adapters, shared by all layers."""
        return self._shared[0]

    @property
    def linear(self) -> Any:
        """The linear itself, under however many adapters."""
        return self.get_base_layer()

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored as [in, out]."""
        return isinstance(self.linear, Conv1D)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the change is one of the weight alone."""
        return not (adapter_name in self.gpart_stretches and self.gpart_stretches[adapter_name].bias)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        target = device or self.linear.weight.device
        theta = self.gpart_theta[adapter_name]
        if theta.device.type == "cpu" and target.type not in ("cpu", "meta"):
            theta.data = theta.data.to(target)

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """The change of the weight, in the shape in which that is stored."""
        stretch = self.gpart_stretches[adapter]
        return stretch.change(stretch.part(self.gpart_theta[adapter].detach()))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the changes of some adapters to the weight; None = the active ones.

        Raises:
            AdapterError: the weight is not stored as floating-point numbers; a change is not finite (`safe_merge`).
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.gpart_stretches:
                self._require_finite(name, safe_merge)
                self._add(name, 1)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Takes the changes off again; what rounding to the weight's format lost stays lost."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            self._add(self.merged_adapters.pop(), -1)

    def _require_finite(self, name: str, asked: bool) -> None:
        base = self.linear
        if not base.weight.is_floating_point():
            raise AdapterError(
                f"merging {name!r}", f"a base weight is stored as {base.weight.dtype}", "merge into the float model"
            )
        if asked and not bool(torch.isfinite(self.gpart_theta[name]).all()):
            raise AdapterError(f"merging {name!r}", "NaNs detected: its vector is not finite", "take a checkpoint")

    def _add(self, name: str, sign: int) -> None:
        base, stretch = self.linear, self.gpart_stretches[name]
        part = stretch.part(self.gpart_theta[name].detach().float()).to(base.weight.device)
        changes = [(base.weight, stretch.change(part))]
        if stretch.bias:
            changes.append((base.bias, stretch.map.expand(part, stretch.stop, stretch.stop + stretch.bias)))
        for tensor, change in changes:
            tensor.data = (tensor.data.to(change) + sign * change).to(tensor.dtype)

    def forward(self, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Outputs [..., out] of inputs [..., in]."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: torch.Tensor = self.base_layer(inputs, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for share in self._shares(inputs):
            result = result + share.to(result.dtype)
        return result

    def _shares(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        device = inputs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
        for name in self.active_adapters:
            if name not in self.gpart_stretches:
                continue
            stretch, theta = self.gpart_stretches[name], self.gpart_theta[name].to(inputs.device)
            with torch.autocast(device, enabled=False):
                part, dropout = stretch.part(theta), self._drawn(name)
                yield changed_linear(inputs.to(dtype), part, stretch, dropout, self.transposed)
                if stretch.bias:
                    yield expanded(part, stretch.map, stretch.stop, stretch.stop + stretch.bias)

    def _drawn(self, name: str) -> Dropout | None:
        share = self.gpart_dropout[name]
        return Dropout(int(torch.randint(2**62, ())), share) if self.training and share else None

    def __repr__(self) -> str:
        return f"gpart.{super().__repr__()}"
