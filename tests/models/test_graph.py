"""Networks of torch.nn, cut and described: the same values, nothing that is not needed, nothing that is not allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from featherweight.core.errors import CheckpointError, UnsupportedArchitecture
from featherweight.models.graph import Network, cut, describe, layer_nodes, traced


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.scale = nn.Parameter(torch.full((1, width, 1, 1), 0.5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.relu(self.norm(self.conv(images)) * self.scale + images)


class Small(nn.Module):
    """Branches, one module called twice, parameters of its own, functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.body = nn.Sequential(Residual(8), nn.GELU(), Residual(8))
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = torch.nn.functional.relu(self.stem(images))
        second = self.body(first)
        both = torch.cat([self.pool(first), self.pool(second)], dim=1)
        return self.classifier(both.view(both.size(0), -1))


def donor() -> Small:
    torch.manual_seed(0)
    return Small().eval()


IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def rebuilt(layers: list[str]) -> tuple[Network, dict[str, Any]]:
    part = cut(traced(donor()), layers)
    description = json.loads(json.dumps(describe(part)))
    network = Network(description).eval()
    network.load_state_dict(part.state_dict())
    return network, description


@pytest.mark.parametrize("layers", [["stem"], ["body.0", "body.2.conv"], ["body.0.relu", "body", "classifier"]])
def test_a_rebuilt_network_gives_what_the_donors_modules_give(layers: list[str]) -> None:
    network, _ = rebuilt(layers)
    module, seen = donor(), {}
    for name in layers:
        module.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: output.clone()})
        )
    with torch.no_grad():
        module(IMAGES)
        for found, name in zip(network(IMAGES), layers, strict=True):
            assert torch.equal(found, seen[name]), name


def test_nothing_after_the_deepest_layer_is_kept() -> None:
    network, description = rebuilt(["body.0"])
    assert {name.split(".")[0] for name in network.state_dict()} == {"stem", "body"}
    assert not any(name.startswith("body.2") for name in network.state_dict())
    assert set(description["modules"]) == {"stem", "body.0.conv", "body.0.norm", "body.0.relu"}


def test_layers_are_listed_in_the_order_of_computation() -> None:
    names = list(layer_nodes(traced(donor())))
    assert names.index("stem") < names.index("body.0.conv") < names.index("body.0") < names.index("body.2")
    assert names[-1] == "classifier"


def test_the_donor_is_not_touched() -> None:
    module = donor()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    cut(traced(module), ["body"])(IMAGES)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "message"), [("body.7", "is no layer of the donor; did you mean"), ("", "is no layer")]
)
def test_a_layer_that_is_not_there(layer: str, message: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=message):
        cut(traced(donor()), [layer])


def test_a_path_that_depends_on_the_data() -> None:
    class Branching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(UnsupportedArchitecture, match="cannot be traced"):
        traced(Branching())


def test_operations_and_modules_off_the_list_are_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.conv(torch.special.erf(images))

    class Own(nn.Conv2d):
        pass

    with pytest.raises(UnsupportedArchitecture, match=r"operation '.*erf': is none that a grafted model can store"):
        describe(cut(traced(Odd()), ["conv"]))
    tracer = torch.fx.Tracer()
    tracer.is_leaf_module = lambda module, name: True  # type: ignore[method-assign]
    network = nn.Sequential(Own(3, 3, 1))
    graph = torch.fx.GraphModule(network, tracer.trace(network))
    with pytest.raises(UnsupportedArchitecture, match="'Own'"):
        describe(graph)


@pytest.mark.parametrize(
    "node",
    [
        ["call_function", "x", "torch.load", {"tuple": ["weights.pt"]}, {"dict": []}],
        ["call_function", "x", "os.system", {"tuple": ["true"]}, {"dict": []}],
        ["call_method", "x", "numpy", {"tuple": []}, {"dict": []}],
        ["call_module", "x", "absent", {"tuple": []}, {"dict": []}],
        ["get_attr", "x", "__class__", {"tuple": []}, {"dict": []}],
        ["run", "x", "torch.add", {"tuple": []}, {"dict": []}],
    ],
)
def test_a_description_calls_nothing_but_what_is_listed(node: list[Any]) -> None:
    _, description = rebuilt(["stem"])
    with pytest.raises(CheckpointError, match="which is not allowed"):
        Network({**description, "nodes": [*description["nodes"], node]})


def test_a_description_makes_nothing_but_modules_of_torch() -> None:
    _, description = rebuilt(["stem"])
    for kind in ("Parameter", "functional", "nowhere"):
        with pytest.raises(CheckpointError, match=r"is no class of torch\.nn"):
            Network({**description, "modules": {"stem": [kind, {"dict": []}]}})
