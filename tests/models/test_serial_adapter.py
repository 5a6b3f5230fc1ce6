"""Serial adapters: no change at first, the authors' wiring and its quirk, what is trained, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from featherweight.core.errors import AdapterError, RecipeError
from featherweight.models.deformable import attention_layers, head_names
from featherweight.models.serial_adapter import AdaptedAttention, SerialAdapter, adapted, insert, inserted, merge
from featherweight.testing.segmenters import coloured_shapes, tiny_deformable_detr, tiny_mask2former
from featherweight.train.segmentation import train_only

MODELS = {"mask2former": tiny_mask2former, "deformable_detr": tiny_deformable_detr}
IMAGES = coloured_shapes(2).images
torch.set_num_threads(1)


def with_adapters(kind: str, **settings: Any) -> Any:
    model = MODELS[kind]()
    insert(model, SerialAdapter(**settings), torch.Generator().manual_seed(1))
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model(pixel_values=IMAGES)
    return out.logits if "logits" in out else out.masks_queries_logits


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("count", [1, 3])
def test_untrained_adapters_change_nothing(kind: str, count: int) -> None:
    model = with_adapters(kind, count=count)
    torch.testing.assert_close(logits(model), logits(MODELS[kind]()), rtol=0, atol=1e-6)
    wrapper = next(iter(adapted(model).values()))
    attended = torch.randn(2, 3, 32)
    wrapper.attention = _Doubling()
    assert torch.equal(wrapper(hidden_states=attended)[0], 2 * attended)  # bit for bit


@pytest.mark.parametrize("kind", MODELS)
def test_the_papers_wiring_is_not_the_base_at_first(kind: str) -> None:
    difference = (logits(with_adapters(kind, wiring="paper")) - logits(MODELS[kind]())).abs().max()
    assert float(difference) > 0.01


@pytest.mark.parametrize("kind", MODELS)
def test_the_papers_wiring_counts_the_residual_twice(kind: str) -> None:
    """With adapters that give nothing, each layer norm sees 2 x + a where the base's sees x + a."""
    model = with_adapters(kind, wiring="paper", count=2)
    for name, value in inserted(model).items():
        if ".up." in name:
            value.data.zero_()
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in adapted(model)}
    for name, wrapper in adapted(model).items():
        record = seen[name]
        wrapper.attention.register_forward_hook(lambda _, __, out, to=record: to.append(out[0]))
        norm = model.get_submodule(f"{name}_layer_norm")
        wrapper.register_forward_hook(lambda _, __, out, to=record: to.append(out[0]))
        norm.register_forward_pre_hook(lambda _, inputs, to=record: to.append(inputs[0]))
    logits(model)
    for attended, after, summed in seen.values():
        residual = summed - after
        torch.testing.assert_close(summed, 2 * residual + attended, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wiring", ["no-op", "paper"])
def test_adapters_in_a_row_follow_the_formula(wiring: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    wrapper = AdaptedAttention(_Doubling(), 12, SerialAdapter(count=3, wiring=wiring))
    for adapter in wrapper.adapters:
        adapter.draw(generator, no_op=False)
    x = torch.randn(2, 5, 12, generator=generator)
    a = z = 2 * x
    for adapter in wrapper.adapters:
        narrow = torch.relu(z @ adapter.down.weight.T + adapter.down.bias)
        z = narrow @ adapter.up.weight.T + adapter.up.bias + (a if wiring == "no-op" else x + a)
    torch.testing.assert_close(wrapper(hidden_states=x)[0], z)


class _Doubling(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, None]:
        return 2 * hidden_states, None


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_in_adapters_and_heads_only(kind: str) -> None:
    model = with_adapters(kind, count=2)
    heads = head_names(model)
    train_only(model, heads, list(inserted(model).values()))
    out = model(pixel_values=IMAGES)
    sum(each.square().mean() for each in out.values() if torch.is_tensor(each) and each.requires_grad).backward()
    for name, value in model.named_parameters():
        ours = ".adapters." in name or any(name.startswith(head) for head in heads)
        assert value.requires_grad == ours, name
        assert ours or value.grad is None, name
    # The last `up` of a row is zero at first, and only it hears of the loss.
    assert all(bool(value.grad.any()) for name, value in inserted(model).items() if "adapters.1.up.weight" in name)


def test_every_attention_gets_adapters_or_those_that_are_named() -> None:
    assert len(adapted(with_adapters("mask2former"))) == len(attention_layers(tiny_mask2former())) == 6
    assert all(name.endswith("cross_attn") for name in adapted(with_adapters("mask2former", places=("cross_attn",))))
    narrow = adapted(with_adapters("mask2former", reduction=8))
    assert {each.adapters[0].down.out_features for each in narrow.values()} == {4}


def test_the_same_seed_draws_the_same_adapters() -> None:
    first, second = (inserted(with_adapters("mask2former")) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_merging_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"12 serial adapters: have a ReLU .* cannot be merged .* or train LoRA"):
        merge(with_adapters("mask2former"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count = 0: is below 1"),
        ({"reduction": 0}, "reduction = 0: is below 1"),
        ({"wiring": "parallel"}, "wiring 'parallel': is unknown"),
        ({"places": ("cross_atn",)}, "'cross_atn': matches no attention of the model; did you mean 'cross_attn'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        with_adapters("mask2former", **settings)


def test_adapters_are_not_inserted_twice() -> None:
    model = with_adapters("mask2former")
    with pytest.raises(RecipeError, match="has serial adapters already"):
        insert(model, SerialAdapter(), torch.Generator())


def test_a_norm_before_attention_has_no_paper_wiring() -> None:
    model = tiny_mask2former(pre_norm=True)
    with pytest.raises(RecipeError, match="is defined for layers whose norm comes last"):
        insert(model, SerialAdapter(wiring="paper"), torch.Generator())
    before = logits(model)
    insert(model, SerialAdapter(), torch.Generator())
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)
