"""What pruners are shown: the second moments of the inputs of linears, and the effect of what they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.architecture import Reads
from featherweight.core.inputs import InputMoments, set_weight, weight_of
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.core.stream import stream
from featherweight.testing.tiny import tiny_tokens


def moments_of(model: Model, ids: torch.Tensor) -> dict[tuple[int, str], torch.Tensor]:
    """Mean of x x^T of every linear's input, from the whole module."""
    module, found = model.module(), {}

    def hook(key: tuple[int, str]) -> Any:
        def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            flat = inputs[0].flatten(0, 1)
            found[key] = flat.T @ flat / len(flat)

        return keep

    for index, block in enumerate(module.model.layers):
        for read in model.architecture.reads:
            for linear in read.linears:
                block.get_submodule(linear).register_forward_pre_hook(hook((index, linear)))
    with torch.inference_mode():
        module(ids, use_cache=False)
    return found


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
def test_moments_equal_those_of_the_whole_module(any_architecture: Path, twice: bool, diagonal: bool) -> None:
    model, ids = open_folder(any_architecture), tiny_tokens(any_architecture, rows=5, length=16).ids
    expected = moments_of(model, ids)
    seen: list[tuple[int, str]] = []

    def act(index: int, block: Any, read: Reads, moment: torch.Tensor) -> None:
        for linear in read.linears:
            truth = expected[index, linear]
            torch.testing.assert_close(moment, truth.diagonal() if diagonal else truth, rtol=1e-4, atol=1e-6)
            seen.append((index, linear))

    visitor = InputMoments(model.architecture.reads, act, diagonal, twice)
    stream(model, ids, visitor, rows=2 if twice else None)
    assert sorted(seen) == sorted(expected)


def test_what_comes_after_sees_the_new_weights(tiny: Path) -> None:
    model, ids = open_folder(tiny), tiny_tokens(tiny, rows=3, length=16).ids
    shown: dict[tuple[int, str], torch.Tensor] = {}

    def act(index: int, block: Any, read: Reads, moment: torch.Tensor) -> None:
        shown[index, read.linears[0]] = moment
        for linear in read.linears:
            set_weight(block, linear, weight_of(block, linear) * 0.5)

    stream(model, ids, InputMoments(model.architecture.reads, act))
    halved = model.with_changes({name: model.tensor(name) * 0.5 for name in model.architecture.linears()})
    expected = moments_of(halved, ids)
    for key, moment in shown.items():
        torch.testing.assert_close(moment, expected[key], rtol=1e-4, atol=1e-6)
    assert model.fingerprint == open_folder(tiny).fingerprint


@pytest.mark.parametrize("share", [0.0, 0.5, 1.5, 100.0])
def test_rows_in_parts_give_what_all_rows_at_once_give(
    any_architecture: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of a module's last inputs is kept, from nothing to everything."""
    model, ids = open_folder(any_architecture), tiny_tokens(any_architecture, rows=6, length=16).ids

    def halve(index: int, block: Any, read: Reads, moment: torch.Tensor) -> None:
        for linear in read.linears:
            set_weight(block, linear, weight_of(block, linear) * 0.5)

    at_once = stream(model, ids, InputMoments(model.architecture.reads, halve))
    monkeypatch.setattr("featherweight.core.inputs._KEPT_SHARE", share)
    in_parts = stream(model, ids, InputMoments(model.architecture.reads, halve, rows=2))
    torch.testing.assert_close(in_parts, at_once, rtol=1e-5, atol=1e-6)


def test_kept_inputs_save_the_work_up_to_the_last_linear(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featherweight.core.inputs._KEPT_SHARE", 100.0)
    model, ids = open_folder(tiny), tiny_tokens(tiny, rows=6, length=16).ids
    count = {"gate": 0, "down": 0}

    class Counting(InputMoments):
        def enter(self, index: int, block: torch.nn.Module) -> None:
            super().enter(index, block)
            for name in count:
                block.get_submodule(f"mlp.{name}_proj").register_forward_hook(self._counted(name))

        def _counted(self, name: str) -> Any:
            def hook(*_: Any) -> None:
                count[name] += 1

            return hook

    stream(model, ids, Counting(model.architecture.reads, lambda *_: None, rows=2))
    blocks = model.architecture.blocks
    assert count["down"] == 3 * blocks  # each part once
    assert count["gate"] == 4 * blocks  # each part to look, and the first one to see what the module returns
