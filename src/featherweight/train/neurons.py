"""Neurons of a plain multi-layer perceptron as players, and the perceptron without those that left.

The module is an `nn.Sequential` of linears with activations between them that map 0 to 0 and scale with their input
(ReLU), so that gating a neuron's activation is scaling its weights and bias.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence

from featherweight.core.lazy import torch
from featherweight.train.players import PlayerLayer


def neuron_layers(network: torch.nn.Sequential) -> list[PlayerLayer]:
    """One layer of players for every hidden layer, named by the linear's place in the module."""
    linears = _linears(network)
    return [
        PlayerLayer(place, reader, linear.out_features, 1, functools.partial(_incoming, linear))
        for (place, linear), (_, reader) in itertools.pairwise(linears)
    ]


def without(
    network: torch.nn.Sequential, kept: Mapping[str, Sequence[int]], shares: Mapping[str, torch.Tensor] | None = None
) -> torch.nn.Sequential:
    """A smaller copy that has the kept neurons only, with their shares folded into the weights that read them.

    Args:
        network: the module; it is not changed.
        kept: ascending neurons, by layer name; a layer that is not named stays whole.
        shares: s of all neurons, by layer name; None = 1.
    """
    inputs: torch.Tensor | None = None  # neurons of the layer before that stay
    scale: torch.Tensor | None = None
    modules: list[torch.nn.Module] = []
    for place, module in network.named_children():
        if not isinstance(module, torch.nn.Linear):
            modules.append(module)
            continue
        outputs = torch.tensor(list(kept[place])) if place in kept else torch.arange(module.out_features)
        modules.append(_cut(module, inputs, outputs, scale))
        inputs = outputs
        scale = None if shares is None or place not in shares else shares[place].detach()
    return torch.nn.Sequential(*modules)


def _cut(
    linear: torch.nn.Linear, inputs: torch.Tensor | None, outputs: torch.Tensor, scale: torch.Tensor | None
) -> torch.nn.Linear:
    weight = linear.weight.detach() if scale is None else linear.weight.detach() * scale
    weight = weight[outputs] if inputs is None else weight[outputs][:, inputs]
    result = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=linear.bias is not None)
    result.weight = torch.nn.Parameter(weight.clone())
    if linear.bias is not None:
        result.bias = torch.nn.Parameter(linear.bias.detach()[outputs].clone())
    return result


def _linears(network: torch.nn.Sequential) -> list[tuple[str, torch.nn.Linear]]:
    return [(place, each) for place, each in network.named_children() if isinstance(each, torch.nn.Linear)]


def _incoming(linear: torch.nn.Linear) -> torch.Tensor:
    """A neuron's weights and bias, [neurons, weights]."""
    if linear.bias is None:
        return linear.weight
    return torch.cat([linear.weight, linear.bias[:, None]], dim=1)
