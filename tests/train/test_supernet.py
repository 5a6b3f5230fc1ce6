"""The supernet at single choices against sliced and rounded models, and each trap of slicing by itself."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.architecture import EMBEDDING, HEAD, supported
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.measure.ordering import importance_order
from featherweight.plan.joint_recipe import recipe_of
from featherweight.testing.tiny import tiny_model, tiny_run
from featherweight.train.decisions import one_hot
from featherweight.train.space import Space, space_of
from featherweight.train.supernet import Supernet, rounded_inputs

TOKENS = torch.arange(3, 3 + 48).reshape(2, 24) * 7 % 500
SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4}


def opened(folder: Path, model_type: str = "llama", **changes: Any) -> tuple[Model, Run]:
    path = tiny_model(folder, model_type, **{**SHAPE, **changes})
    return open_folder(path), tiny_run(path, rows=4)


def logits(model: Model) -> torch.Tensor:
    with torch.inference_mode():
        return model.module()(TOKENS, use_cache=False).logits


def supernet(model: Model, run: Run, space: Space, rank: int = 2) -> Supernet:
    return Supernet(model, space, importance_order(model, run), rank, torch.Generator().manual_seed(0))


def at(net: Supernet, choice: Any) -> torch.Tensor:
    with torch.no_grad():
        return net.logits(TOKENS, one_hot(net.space, choice))


def made(model: Model, run: Run, net: Supernet, choice: Any) -> Model:
    """What the ordinary slicer and quantizer make of a choice."""
    for step in recipe_of(model, net.space, net.order, choice):
        model = step.apply(model, run)
    return model


SMALLER: dict[str, dict[str, Any]] = {
    "blocks": {"blocks": [1, 2, 3]},
    "ffn": {"ffn": [64, 128, 256]},
    "groups": {"groups": [1, 2, 4]},
    "hidden": {"hidden": [32, 64]},
    "together": {"blocks": [2, 3], "ffn": [128, 256], "groups": [2, 4], "hidden": [32, 64]},
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", supported())
@pytest.mark.parametrize("kind", SMALLER)
def test_every_choice_is_its_sliced_model(models_folder: Path, model_type: str, kind: str, tied: bool) -> None:
    model, run = opened(models_folder, model_type, tie_word_embeddings=tied)
    space = space_of(model, **_possible(model, SMALLER[kind]))
    net = supernet(model, run, space)
    for choice in space.choices():
        difference = (at(net, choice) - logits(made(model, run, net, choice))).abs().max()
        assert difference <= 1e-5 * max(1.0, float(logits(model).abs().max())), choice


def _possible(model: Model, sizes: dict[str, Any]) -> dict[str, Any]:
    """Without the sizes that this architecture cannot take."""
    from featherweight.core.slicing import allowed_groups

    hidden = model.architecture.size("hidden")
    scaled = {**sizes, "hidden": [hidden // 2, hidden]} if "hidden" in sizes else sizes
    if "groups" not in sizes:
        return scaled
    return {**scaled, "groups": [size for size in sizes["groups"] if size in allowed_groups(model)]}


@pytest.mark.parametrize("tied", [False, True])
def test_every_choice_is_its_sliced_and_rounded_model(models_folder: Path, tied: bool) -> None:
    model, run = opened(models_folder, tie_word_embeddings=tied)
    space = space_of(
        model, blocks=[2, 3], ffn=[128, 256], groups=[2, 4], hidden=[32, 64],
        formats=["int2-g32", "Q4_0", "Q8_0", "int4-g32-asym"], ends=["Q8_0"], precision="model",
    )  # fmt: skip
    net = supernet(model, run, space)
    for choice in space.choices():
        assert (at(net, choice) - logits(made(model, run, net, choice))).abs().max() <= 1e-5, choice


@pytest.mark.parametrize("precision", ["layer", "part"])
def test_formats_differ_by_layer(models_folder: Path, precision: Any) -> None:
    model, run = opened(models_folder)
    space = space_of(
        model, blocks=[2], formats=["int3-g32", "Q4_0", "Q8_0"], ends=["Q4_0", "Q8_0"], precision=precision
    )
    net = supernet(model, run, space)
    kinds = itertools.cycle(["Q8_0", "int3-g32", "Q4_0"])
    choice = {name: next(kinds) if len(each) == 3 else each[0] for name, each in space.options.items()}
    assert (at(net, choice) - logits(made(model, run, net, choice))).abs().max() <= 1e-5


def test_everything_at_full_size_and_16_bits_is_the_parent(any_architecture: Path) -> None:
    model = open_folder(any_architecture)
    a = model.architecture
    space = space_of(
        model, blocks=[1, a.blocks], ffn=[128, a.size("ffn")], groups=[a.kv_heads], hidden=[32, a.size("hidden")],
        formats=["Q8_0", "F32"], ends=["Q8_0", "F32"], activations=[4, 16],
    )  # fmt: skip
    net = supernet(model, tiny_run(any_architecture), space)
    full = {name: each[-1] for name, each in space.options.items()}
    ordered = at(net, full)
    torch.testing.assert_close(ordered, logits(model), atol=1e-5, rtol=1e-5)
    alone = supernet(model, tiny_run(any_architecture), Space({}, {}))
    assert torch.equal(at(alone, {}), logits(model))  # nothing searched: bit for bit


class TestCorrections:
    @pytest.mark.parametrize("kind", ["int2-g32", "int4-g64-asym", "Q4_0", "Q5_1", "IQ4_NL", "Q8_0", "BF16"])
    def test_before_training_they_change_nothing(self, models_folder: Path, kind: str) -> None:
        model, run = opened(models_folder)
        net = supernet(model, run, space_of(model, formats=[kind]))
        for name in net.space.formats:
            expected = get(kind).fit(model.tensor(name)).dequantize()
            assert torch.equal(net.matrices[name].rounded()[0].detach(), expected)

    def test_each_format_has_its_own(self, models_folder: Path) -> None:
        model, run = opened(models_folder)
        net = supernet(model, run, space_of(model, formats=["int2-g32", "Q8_0"]))
        matrix = net.matrices[model.architecture.linear(0, "mlp.up_proj")]
        before = matrix.rounded().detach()
        matrix.up[0] += 0.3
        after = matrix.rounded().detach()
        assert not torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1])

    def test_corrected_weights_stay_on_the_grid_and_pass_gradients_through(self, models_folder: Path) -> None:
        model, run = opened(models_folder)
        net = supernet(model, run, space_of(model, formats=["int2-g32"]))
        matrix = net.matrices[model.architecture.linear(0, "mlp.up_proj")]
        [up] = matrix.up
        up.normal_(0, 0.5, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        [rounded] = matrix.rounded()
        assert all(len(group.unique()) <= 4 for group in rounded.detach().reshape(-1, 32))
        pull = torch.randn(rounded.shape, generator=torch.Generator().manual_seed(1))
        (rounded * pull).sum().backward()
        torch.testing.assert_close(up.grad, pull @ matrix.down[0].T)


class TestTraps:
    def test_norms_divide_by_the_active_width(self, models_folder: Path) -> None:
        model, run = opened(models_folder)
        net = supernet(model, run, space_of(model, hidden=[16, 32, 64]))
        draw = {"hidden": torch.tensor([0.0, 1.0, 0.0])}
        seen: dict[str, torch.Tensor] = {}
        norm = net.module.model.layers[1].input_layernorm
        norm.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], y=output))
        with torch.no_grad():
            net.logits(TOKENS, draw)
        active, weight = seen["x"][..., :32], net.vectors["model.layers.1.input_layernorm.weight"][:32]
        assert seen["x"][..., 32:].abs().max() == 0
        by_hand = active / (active.square().mean(-1, keepdim=True) + net.epsilon).sqrt() * weight
        torch.testing.assert_close(seen["y"][..., :32], by_hand)

    @pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
    def test_narrower_heads_keep_rotary_pairs_frequencies_and_scale(self, models_folder: Path, model_type: str) -> None:
        model, run = opened(models_folder, model_type)
        space = space_of(model, head_dim=[8, 16, 32], groups=[2, 4])
        net = supernet(model, run, space)
        for choice in space.choices():
            child = made(model, run, net, choice)
            assert child.architecture.head_dim == choice["head_dim"]
            assert (at(net, choice) - logits(child)).abs().max() <= 1e-5, choice

    def test_groups_go_with_all_their_query_heads(self, models_folder: Path) -> None:
        model, run = opened(models_folder)
        net = supernet(model, run, space_of(model, groups=[1, 2, 4]))
        lengths = net.lengths({"groups": torch.tensor([0.0, 1.0, 0.0])})
        a = model.architecture
        assert torch.equal(lengths["query"], (torch.arange(a.size("query")) < a.size("query") // 2).float())
        assert torch.equal(lengths["kv"], (torch.arange(a.size("kv")) < a.size("kv") // 2).float())
        child = made(model, run, net, {"groups": 2})
        assert child.settings["num_attention_heads"] == 2 * child.settings["num_key_value_heads"] == 4

    def test_a_tied_embedding_is_sliced_once(self, models_folder: Path) -> None:
        model, run = opened(models_folder, tie_word_embeddings=True)
        net = supernet(model, run, space_of(model, hidden=[32, 64]))
        child = made(model, run, net, {"hidden": 32})
        assert HEAD not in child.entries
        assert child.entries[EMBEDDING].shape == (512, 32)
        assert (at(net, {"hidden": 32}) - logits(child)).abs().max() <= 1e-5
        draw = {"hidden": torch.tensor([0.5, 0.5], requires_grad=True)}
        net.logits(TOKENS, draw).square().sum().backward()
        assert draw["hidden"].grad is not None


def test_activation_rounding() -> None:
    values = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    assert rounded_inputs(values, 16) is values
    for bits in (4, 8):
        rounded = rounded_inputs(values, bits)
        scale = values.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert (rounded - values).abs().max() <= scale.max() / 2 + 1e-6
        assert (rounded / scale - (rounded / scale).round()).abs().max() < 1e-4


def test_mixtures_have_gradients_for_every_decision(models_folder: Path) -> None:
    model, run = opened(models_folder)
    space = space_of(
        model, blocks=[1, 2, 3], ffn=[128, 256], groups=[2, 4], hidden=[32, 64], head_dim=[16, 32],
        formats=["int2-g32", "Q8_0"], ends=["Q4_0", "Q8_0"], activations=[4, 8, 16],
    )  # fmt: skip
    net = supernet(model, run, space)
    draw = {name: torch.full((len(each),), 1 / len(each), requires_grad=True) for name, each in space.options.items()}
    net.loss(TOKENS, draw, "moving").backward()
    for name, each in draw.items():
        assert each.grad is not None, name
        assert each.grad.abs().sum() > 0, name
    trained = [factor for matrix in net.matrices.values() for factor in matrix.up]
    assert len(trained) == 2 * (3 * 7 + 2)
    assert net.parameters()[0].grad is None  # leaves only once they are trained
