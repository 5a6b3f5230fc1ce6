"""Plain LoRA layers computed in one step: y = W x + s B (A x) without the tensors that automatic differentiation makes.

PEFT's layer scales B (A x), adds it to the base's output and leaves the rest to autograd: each of these reads and
writes a tensor of the output's size, forward and backward, where here both products are accumulated onto what is there
(`addmm`). On a processor that is memory traffic saved; what is kept for the backward pass is x and A x, and values are
the same up to the order of a sum. Beside a base in half precision PEFT keeps its factors in float32 and a copy of x in
float32 with them; here x is kept as it is and copied when it is needed. Layers that do more (dropout, DoRA, several
adapters, a merged or disabled one, a base that is trained or no plain linear) stay PEFT's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from featherweight.core.lazy import torch
from featherweight.train.frozen import FrozenLinear, Pieces, product, product_back, whole

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Adapted(torch.autograd.Function):
    """W x + bias + scale B A x; W and the bias get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, pieces: Pieces, bias: Any
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = product(flat, pieces, bias, len(b)).to(a.dtype)
        hidden = flat.to(a.dtype) @ a.T
        out.addmm_(hidden, b.T, alpha=scale)
        ctx.save_for_backward(flat, hidden, a, b)
        ctx.scale, ctx.pieces, ctx.shape = scale, pieces, x.shape
        return out.to(x.dtype).view(*x.shape[:-1], len(b))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        flat, hidden, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, len(b))
        exact = grad.to(a.dtype)
        to_hidden = (exact @ b).mul_(ctx.scale)
        to_a = to_hidden.T @ flat.to(a.dtype) if ctx.needs_input_grad[1] else None
        to_b = (exact.T @ hidden).mul_(ctx.scale) if ctx.needs_input_grad[2] else None
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = product_back(grad, ctx.pieces).to(a.dtype).addmm_(to_hidden, a).to(flat.dtype).view(ctx.shape)
        return to_x, to_a, to_b, None, None, None


def adapted_product(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, pieces: Pieces, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """W x + bias + scale B A x, differentiable in x, A and B.

    Args:
        x: [..., in], in the base's dtype.
        a: [rank, in], in a dtype of its own, which the adapter's part is computed in.
        b: [out, rank].
        scale: of the adapter.
        pieces: gives W, float32 [out, in], row by row of pieces, whenever it is needed.
        bias: [out].

    Returns:
        [..., out].
    """
    result: torch.Tensor = _Adapted.apply(x, a, b, scale, pieces, bias)  # type: ignore[no-untyped-call]
    return result


@contextmanager
def fused(module: Any) -> Iterator[int]:
    """While the `with` block lasts, plain LoRA layers of a module compute in one step; gives how many there are."""
    from peft.tuners.lora import Linear

    layers = [layer for layer in module.modules() if type(layer) is Linear and "forward" not in vars(layer)]
    for layer in layers:
        layer.forward = _forward(layer, layer.forward)  # type: ignore[method-assign]
    try:
        yield len(layers)
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or x.numel() == 0 or not plain(layer, x):
            return original(x, *args, **kwargs)
        [name] = layer.active_adapters
        base, a, b = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
        return adapted_product(x, a, b, float(layer.scaling[name]), _pieces(base), base.bias)

    return forward


def _pieces(base: Any) -> Pieces:
    return base.frozen.lent if isinstance(base, FrozenLinear) else whole(base.weight.detach())


def plain(layer: Any, x: torch.Tensor) -> bool:
    """Whether a layer computes W x + s B (A x) on this input and nothing else, with W frozen and float32 factors."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or len(layer.active_adapters) != 1 or layer.disable_adapters or layer.merged:
        return False
    [name] = names
    base, a, b = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    own = not isinstance(base, FrozenLinear) and any(each.requires_grad for each in base.parameters())
    return (
        type(base) in (nn.Linear, FrozenLinear)
        and not own
        and name not in layer.lora_variant
        and a.bias is None
        and b.bias is None
        and (isinstance(layer.lora_dropout[name], nn.Identity) or not layer.training)
        and a.weight.dtype == b.weight.dtype == torch.float32
        and (isinstance(base, FrozenLinear) or x.dtype == base.weight.dtype)
        and x.dtype in _DTYPES
        and not torch.is_autocast_enabled(x.device.type)
    )
