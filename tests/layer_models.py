"""Parents and damaged children for the layer audit: a perceptron, a convolutional network, tiny language models."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from featherweight.core.model import Model
from featherweight.core.quantizer import KEEP
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.measure.layers import LayerSettings
from featherweight.measure.probe_rows import ProbeRows, next_token_rows
from featherweight.measure.token_classes import classes_by_kind
from featherweight.techniques.quantize.rtn import Rtn
from featherweight.testing.tiny import tiny_tokens

LABELS = ("a", "b", "c")
QUICK = LayerSettings(rank=8, clusters=6)


def samples(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [count, 1, 8, 8] of one of three patterns under noise, and which."""
    patterns = torch.randn(len(LABELS), 1, 8, 8, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(len(LABELS), (count,), generator=generator)
    return patterns[targets] + 3 * torch.randn(count, 1, 8, 8, generator=generator), targets


def perceptron() -> torch.nn.Sequential:
    """64-24-20-16-3 with ReLU, trained for a moment."""
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    torch.manual_seed(0)
    return _trained(
        torch.nn.Sequential(
            torch.nn.Flatten(), linear(64, 24), relu(), linear(24, 20), relu(), linear(20, 16), relu(), linear(16, 3)
        )
    )


def convolutional() -> torch.nn.Sequential:
    """Two convolutions with strides, then two linears, trained for a moment."""
    conv, relu = torch.nn.Conv2d, torch.nn.ReLU
    torch.manual_seed(0)
    return _trained(
        torch.nn.Sequential(
            conv(1, 8, 3, stride=2, padding=1), relu(), conv(8, 12, 3, stride=2, padding=1), relu(),
            torch.nn.Flatten(), torch.nn.Linear(48, 16), relu(), torch.nn.Linear(16, 3),
        )
    )  # fmt: skip


def _trained(module: torch.nn.Sequential) -> torch.nn.Sequential:
    inputs, targets = samples(300)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    return module.eval()


def damaged_module(module: torch.nn.Sequential, name: str) -> torch.nn.Sequential:
    """A copy with one layer's weights rounded to two bits a row."""
    child = copy.deepcopy(module)
    with torch.no_grad():
        weight = child.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        flat = weight.flatten(1)
        scale = flat.abs().amax(1, keepdim=True) / 1.5
        weight.copy_(((flat / scale - 0.5).round() + 0.5).clamp(-1.5, 1.5).mul(scale).reshape(weight.shape))
    return child


def damaged(model: Model, *patterns: str, bits: int = 2) -> Model:
    """A language model with some tensors rounded to a few bits."""
    return Rtn(format=KEEP, overrides=dict.fromkeys(patterns, f"int{bits}-g32")).apply(model, Run())


def tiny_rows(folder: Path, rows: int, skip: int = 0) -> ProbeRows:
    """Rows of prose with the kind of the next token for labels."""
    model = open_folder(folder)
    classes = classes_by_kind(model.tokenizer, model.architecture.size("vocab"))
    return next_token_rows(tiny_tokens(folder, rows, 32, skip), classes)
