"""The mean of one loss over several states of a model, such as its ranks, each let go of before the next is computed.

Added up first and differentiated later, the losses would each keep their activations, and a model that is recomputed in
the backward pass (checkpointing) would then be in the wrong state. So each is differentiated at once, in its own state;
what is returned has the mean's value and the mean's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from featherweight.core.lazy import torch


def mean_over_states(
    states: Sequence[Callable[[], AbstractContextManager[None]]],
    loss: Callable[[], torch.Tensor],
    parameters: Iterable[torch.nn.Parameter],
) -> torch.Tensor:
    """The mean loss, a scalar to call `backward` on like any other.

    Args:
        states: each opens a context in which the model is in one of its states.
        loss: computes a scalar in the state that the model is in.
        parameters: everything that is trained; their gradients so far stay as they are.
    """
    trained = [each for each in parameters if each.requires_grad]
    before = [each.grad for each in trained]
    for each in trained:
        each.grad = None
    try:
        total = _differentiated(states, loss)
        gradients = [each.grad for each in trained]
    finally:
        for each, gradient in zip(trained, before, strict=True):
            each.grad = gradient
    # Zero as a value, and the mean's gradient as a gradient.
    pairs = zip(trained, gradients, strict=True)
    carrier = sum(((each * gradient).sum() for each, gradient in pairs if gradient is not None), total.new_zeros(()))
    return total + (carrier - carrier.detach())


def _differentiated(
    states: Sequence[Callable[[], AbstractContextManager[None]]], loss: Callable[[], torch.Tensor]
) -> torch.Tensor:
    values = []
    for state in states:
        with state(), torch.enable_grad():
            value = loss() / len(states)
            if value.requires_grad:
                value.backward()
            values.append(value.detach())
    return torch.stack(values).sum()
