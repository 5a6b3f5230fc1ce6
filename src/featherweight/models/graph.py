"""A `torch.nn` network cut after chosen layers, and its description in plain JSON: no class of the donor is needed.

The donor is traced with torch.fx; what the chosen layers do not need is left out, modules and operations alike. The
description names `torch.nn` classes with their arguments and the operations between them. Only what is listed here is
ever called when a description is read, so a file from elsewhere can build a network and nothing more.

It knows no training and no weights. Networks whose path depends on the data cannot be traced.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featherweight.core.errors import CheckpointError, UnsupportedArchitecture, nearest
from featherweight.core.lazy import torch

Description = Mapping[str, Any]
_FUNCTIONS = {
    "torch": (
        "add", "sub", "mul", "div", "cat", "stack", "flatten", "reshape", "permute", "transpose", "unsqueeze", "chunk",
        "squeeze", "mean", "sum", "relu", "sigmoid", "tanh", "softmax", "clamp", "matmul", "split", "conv2d", "rsqrt",
    ),
    "functional": (
        "relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu",
        "softmax", "mish", "dropout", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "pad",
        "conv2d", "linear", "batch_norm", "layer_norm", "group_norm", "interpolate", "normalize",
        "scaled_dot_product_attention",
    ),
    "operator": (
        "add", "sub", "mul", "truediv", "floordiv", "neg", "getitem", "matmul", "iadd", "imul", "isub", "itruediv",
    ),
}  # fmt: skip
_METHODS = (
    "view", "reshape", "flatten", "permute", "transpose", "contiguous", "mean", "sum", "size", "add", "add_", "mul",
    "mul_", "relu", "relu_", "sigmoid", "tanh", "softmax", "unsqueeze", "squeeze", "chunk", "split", "expand", "float",
    "unflatten", "unbind",
)  # fmt: skip


def _known() -> dict[str, Callable[..., Any]]:
    """Every function that a description may call, by the name that it has there."""
    homes = {"torch": torch, "functional": torch.nn.functional, "operator": operator}
    return {f"{home}.{name}": getattr(homes[home], name) for home, names in _FUNCTIONS.items() for name in names}


def traced(donor: torch.nn.Module) -> torch.fx.GraphModule:
    """The donor as a graph of `torch.nn` modules and operations; its weights are shared.

    Raises:
        UnsupportedArchitecture: its path depends on the data.
    """
    try:
        return torch.fx.symbolic_trace(donor)
    except Exception as error:  # many kinds, all meaning that it cannot be traced
        raise UnsupportedArchitecture(
            type(donor).__name__, f"cannot be traced ({str(error).splitlines()[0]})",
            "give a network without branches on data, or a Hugging Face model with a list of blocks",
        ) from None  # fmt: skip


def layer_nodes(graph: torch.fx.GraphModule) -> dict[str, torch.fx.Node]:
    """The last node of every module of the donor, by the module's name, in the order of computation."""
    found: dict[str, torch.fx.Node] = {}
    for node in graph.graph.nodes:
        names = list(node.meta.get("nn_module_stack", {}))
        for name in [*names, str(node.target)] if node.op == "call_module" else names:
            if name:
                found.pop(name, None)
                found[name] = node
    return found


def cut(graph: torch.fx.GraphModule, layers: Sequence[str]) -> torch.fx.GraphModule:
    """A network that gives the outputs of the named modules as a tuple, and holds nothing that they do not need.

    Raises:
        UnsupportedArchitecture: there is no such module, or it is never called.
    """
    nodes = layer_nodes(graph)
    for layer in layers:
        if layer not in nodes:
            raise UnsupportedArchitecture(
                f"layer {layer!r}",
                "is no layer of the donor",
                nearest(layer, nodes) or f"use one of {', '.join(nodes)}",
            )
    kept = torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    needed = _needed([nodes[layer] for layer in layers])
    for node in graph.graph.nodes:
        if node in needed:
            copies[node] = kept.node_copy(node, copies.__getitem__)
    kept.output(tuple(copies[nodes[layer]] for layer in layers))
    return torch.fx.GraphModule(graph, kept)


def _needed(nodes: Sequence[torch.fx.Node]) -> set[torch.fx.Node]:
    """The nodes, and all that they are computed from."""
    needed: set[torch.fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def describe(network: torch.fx.GraphModule) -> dict[str, Any]:
    """A network in plain JSON, without its weights.

    Raises:
        UnsupportedArchitecture: it uses an operation or a module that is not on the list.
    """
    names = {function: name for name, function in _known().items()}
    nodes, modules, tensors = [], {}, {}
    for node in network.graph.nodes:
        target = str(node.target)
        if node.op == "call_function":
            if node.target not in names:
                raise _unlisted(getattr(node.target, "__name__", target))
            target = names[node.target]
        elif node.op == "call_method" and target not in _METHODS:
            raise _unlisted(target)
        elif node.op == "call_module":
            modules[target] = _described(network.get_submodule(target))
        elif node.op == "get_attr":
            tensors[target] = _described_tensor(network, target)
        arguments = [_plain(node.args), _plain(node.kwargs)]
        nodes.append([node.op, node.name, target, *arguments])
    return {"kind": "graph", "nodes": nodes, "modules": modules, "tensors": tensors}


def _unlisted(name: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(
        f"the donor's operation {name!r}", "is none that a grafted model can store",
        "choose layers before it, or add it to models/graph.py",
    )  # fmt: skip


def _described(module: torch.nn.Module) -> list[Any]:
    """Class and arguments of a `torch.nn` module: those of its constructor that it keeps under the same name."""
    kind = type(module)
    if getattr(torch.nn, kind.__name__, None) is not kind:
        raise _unlisted(kind.__name__)
    arguments = {}
    for name in inspect.signature(kind.__init__).parameters:
        if hasattr(module, name):
            value = getattr(module, name)
            arguments[name] = _plain(value is not None if name == "bias" and not isinstance(value, bool) else value)
    return [kind.__name__, arguments]


def _described_tensor(network: torch.nn.Module, name: str) -> list[Any]:
    """Whether it is a parameter, its shape and its type."""
    value = _attribute(network, name)
    return [isinstance(value, torch.nn.Parameter), list(value.shape), str(value.dtype).removeprefix("torch.")]


def _plain(value: Any) -> Any:
    """A value in JSON; nodes, tuples and slices as objects with one key."""
    if isinstance(value, torch.fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each) for each in value]}
    if isinstance(value, slice):
        return {"slice": [_plain(each) for each in (value.start, value.stop, value.step)]}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {"dict": [[str(key), _plain(each)] for key, each in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise _unlisted(f"argument {value!r}")


class Network(torch.nn.Module):
    """The network of a description, with fresh weights; gives a tuple, one tensor a layer.

    Raises:
        CheckpointError: the description names what is not on the list.
    """

    def __init__(self, description: Description) -> None:
        super().__init__()
        for name, (kind, arguments) in description["modules"].items():
            home, leaf = self._home(name)
            home.add_module(leaf, _module(kind, arguments))
        for name, (is_parameter, shape, dtype) in description["tensors"].items():
            home, leaf = self._home(name)
            values = torch.zeros(shape, dtype=getattr(torch, dtype))
            if is_parameter:
                home.register_parameter(leaf, torch.nn.Parameter(values, requires_grad=False))
            else:
                home.register_buffer(leaf, values)
        self._steps = [tuple(node) for node in description["nodes"]]
        self._functions = _known()
        for operation, _, target, *_rest in self._steps:
            self._check(operation, target, description)

    def _home(self, name: str) -> tuple[torch.nn.Module, str]:
        """The module that holds what has this name, made where it is missing, and the last part of the name."""
        home: torch.nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            if part not in dict(home.named_children()):
                home.add_module(part, torch.nn.Module())
            home = home.get_submodule(part)
        return home, leaf

    def _check(self, operation: str, target: str, description: Description) -> None:
        """Refuses a step that would call what is neither on the lists nor in the description."""
        allowed = {
            "call_function": self._functions, "call_method": _METHODS, "call_module": description["modules"],
            "get_attr": description["tensors"], "placeholder": [target], "output": [target],
        }  # fmt: skip
        if target not in allowed.get(operation, ()):
            raise CheckpointError("the trunk", f"calls {target!r}, which is not allowed", "make the model again")

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs of the layers for [rows, channels, height, width]."""
        found: dict[str, Any] = {}
        for operation, name, target, args, kwargs in self._steps:
            if operation == "placeholder":
                found[name] = images
                continue
            positional, named = _value(args, found), _value(kwargs, found)
            if operation == "call_function":
                found[name] = self._functions[target](*positional, **named)
            elif operation == "call_method":
                found[name] = getattr(positional[0], target)(*positional[1:], **named)
            elif operation == "call_module":
                found[name] = self.get_submodule(target)(*positional, **named)
            elif operation == "get_attr":
                found[name] = _attribute(self, target)
            else:
                return tuple(positional[0])
        raise CheckpointError("the trunk", "has no output", "make the model again")


def _module(kind: str, arguments: Any) -> torch.nn.Module:
    """A fresh module from what `_described` said of one."""
    cls = getattr(torch.nn, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise CheckpointError("the trunk", f"holds {kind!r}, which is no class of torch.nn", "make the model again")
    return cls(**{name: _value(value, {}) for name, value in arguments.items()})


def _attribute(network: torch.nn.Module, name: str) -> torch.Tensor:
    """A parameter or buffer by its whole name."""
    owner, _, leaf = name.rpartition(".")
    value: torch.Tensor = getattr(network.get_submodule(owner), leaf)
    return value


def _value(value: Any, nodes: Mapping[str, Any]) -> Any:
    """What `_plain` made plain, with the results of nodes in their places."""
    if isinstance(value, list):
        return [_value(each, nodes) for each in value]
    if not isinstance(value, Mapping):
        return value
    [(kind, content)] = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "dict":
        return {key: _value(each, nodes) for key, each in content}
    parts = [_value(each, nodes) for each in content]
    return slice(*parts) if kind == "slice" else tuple(parts)
