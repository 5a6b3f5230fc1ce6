"""LoRA in deformable attention: what each linear moves, merging, heads that share weights, stock PEFT."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers.models.mask2former.modeling_mask2former as mask2former
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from featherweight.core.errors import RecipeError, UnsupportedArchitecture
from featherweight.models.deformable import DEFORMABLE, head_names, require_deformable
from featherweight.models.deformable_lora import DeformableLora, attach_lora, lora_targets, without_word_embeddings
from featherweight.testing.segmenters import coloured_shapes, tiny_deformable_detr, tiny_mask2former

MODELS = {"mask2former": tiny_mask2former, "deformable_detr": tiny_deformable_detr}
IMAGES = coloured_shapes(2).images
SAME = 1e-5  # where weights lie in memory decides how products are summed
torch.set_num_threads(1)


def with_lora(model: Any, **settings: Any) -> Any:
    return attach_lora(model, DeformableLora(**settings), torch.Generator().manual_seed(1)).eval()


def stir(model: Any, only: str = "lora_B") -> Any:
    """Gives the factors B, and heads where asked for, other values."""
    generator = torch.Generator().manual_seed(2)
    for name, value in model.named_parameters():
        if only in name:
            value.data += 0.1 * torch.randn(value.shape, generator=generator)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model(pixel_values=IMAGES)
    return out.logits if "logits" in out else out.masks_queries_logits


@pytest.mark.parametrize("kind", MODELS)
def test_an_untrained_change_of_any_subset_changes_nothing(kind: str) -> None:
    before = logits(MODELS[kind]())
    for some in (*((name,) for name in DEFORMABLE), ("sampling_offsets", "value_proj"), DEFORMABLE, ()):
        adapted = with_lora(MODELS[kind](), rank=2, deformable=some)
        assert float((logits(adapted) - before).abs().max()) < 1e-6, some


@pytest.mark.parametrize("kind", MODELS)
def test_merged_and_unmerged_compute_the_same(kind: str) -> None:
    adapted = stir(stir(with_lora(MODELS[kind](), deformable=DEFORMABLE, rank=4)), "modules_to_save")
    before, base = logits(adapted), logits(MODELS[kind]())
    assert float((before - base).abs().max()) > 1e-3
    merged = copy.deepcopy(adapted).merge_and_unload()
    torch.testing.assert_close(logits(merged), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_in_factors_and_heads_only(kind: str) -> None:
    adapted = with_lora(MODELS[kind]())
    out = adapted(pixel_values=IMAGES)
    sum(each.square().mean() for each in out.values() if torch.is_tensor(each) and each.requires_grad).backward()
    for name, value in adapted.named_parameters():
        assert value.requires_grad == (".lora_" in name or ".modules_to_save." in name), name
        assert value.requires_grad or value.grad is None, name
    factors = [value for name, value in adapted.named_parameters() if "sampling_offsets.lora_B" in name]
    assert factors
    assert all(bool(value.grad.any()) for value in factors)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("linear", "moves"), [("sampling_offsets", True), ("value_proj", False)])
def test_only_offsets_move_where_the_first_layer_reads(kind: str, linear: str, moves: bool) -> None:
    model = MODELS[kind]()
    with places_read() as before:
        base = logits(model)
    with places_read() as after:
        changed = logits(stir(with_lora(model, deformable=(linear,), self_attention=())))
    assert torch.equal(before[0], after[0]) != moves
    assert not torch.equal(base, changed)


@contextmanager
def places_read() -> Iterator[list[torch.Tensor]]:
    """Sampling locations of every deformable attention, in the order in which they are computed."""
    found: list[torch.Tensor] = []
    masks, detector = mask2former.multi_scale_deformable_attention, MultiScaleDeformableAttention.forward

    def of_masks(value: Any, shapes: Any, locations: Any, weights: Any) -> Any:
        found.append(locations.detach().clone())
        return masks(value, shapes, locations, weights)

    def of_detector(self: Any, value: Any, shapes: Any, listed: Any, start: Any, locations: Any, *rest: Any) -> Any:
        found.append(locations.detach().clone())
        return detector(self, value, shapes, listed, start, locations, *rest)

    mask2former.multi_scale_deformable_attention = of_masks
    MultiScaleDeformableAttention.forward = of_detector
    try:
        yield found
    finally:
        mask2former.multi_scale_deformable_attention = masks
        MultiScaleDeformableAttention.forward = detector


def naive(value: torch.Tensor, shapes: list[tuple[int, int]], places: torch.Tensor, weights: torch.Tensor) -> Any:
    """Deformable attention by loops: bilinear between pixel centres, zero outside the map."""
    rows, _, heads, width = value.shape
    _, queries, _, levels, points, _ = places.shape
    out = torch.zeros(rows, queries, heads, width, dtype=value.dtype)
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(levels)]
    for row, query, head, level, point in itertools.product(*map(range, (rows, queries, heads, levels, points))):
        high, wide = shapes[level]
        x, y = places[row, query, head, level, point].tolist()
        x, y = x * wide - 0.5, y * high - 0.5
        left, top = int(x // 1), int(y // 1)
        for down, across in itertools.product((0, 1), (0, 1)):
            i, j = top + down, left + across
            if 0 <= i < high and 0 <= j < wide:
                share = (1 - abs(y - i)) * (1 - abs(x - j))
                read = value[row, starts[level] + i * wide + j, head]
                out[row, query, head] += weights[row, query, head, level, point] * share * read
    return out.reshape(rows, queries, heads * width)


def test_deformable_attention_is_the_bilinear_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes, heads, width, queries, points = [(2, 3), (4, 5)], 2, 3, 4, 2
    value = torch.randn(2, 26, heads, width, generator=generator, dtype=torch.float64)
    # Some of the places lie outside the maps.
    places = 1.4 * torch.rand(2, queries, heads, 2, points, 2, generator=generator, dtype=torch.float64) - 0.2
    weights = torch.rand(2, queries, heads, 2, points, generator=generator, dtype=torch.float64)
    expected = naive(value, shapes, places, weights)
    found = mask2former.multi_scale_deformable_attention(value, shapes, places, weights)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    sizes = torch.tensor(shapes)
    found = MultiScaleDeformableAttention()(value, sizes, shapes, torch.tensor([0, 6]), places, weights, 64)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("refine", [False, True])
def test_heads_that_share_weights_go_on_sharing_them(refine: bool, tmp_path: Path) -> None:
    adapted = with_lora(tiny_deformable_detr(with_box_refine=refine))
    with torch.no_grad():
        for value in {id(each): each for each in adapted.parameters() if each.requires_grad}.values():
            value += 0.05
    before = logits(adapted)
    merged = adapted.merge_and_unload()
    assert merged.class_embed[0].weight is merged.class_embed[1].weight
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_stock_peft_saves_and_loads(kind: str, tmp_path: Path) -> None:
    adapted = stir(stir(with_lora(MODELS[kind]())), "modules_to_save")
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    base = MODELS[kind]()
    with without_word_embeddings(base):
        again = peft.PeftModel.from_pretrained(base, str(tmp_path)).eval()
    torch.testing.assert_close(logits(again), logits(adapted), rtol=0, atol=SAME)
    with adapted.disable_adapter():
        torch.testing.assert_close(logits(adapted), logits(MODELS[kind]()), rtol=0, atol=SAME)


def test_a_linear_of_the_mask_head_cannot_be_replaced_by_name() -> None:
    """The head computes through a plain list: a change of its linears would be trained and never used."""
    model = tiny_mask2former()
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules=["mask_embedder.0.0"]))
    torch.testing.assert_close(logits(stir(adapted).eval()), logits(model), rtol=0, atol=SAME)
    assert not any("mask_embedder" in name for name in lora_targets(model, DeformableLora(deformable=DEFORMABLE)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deformable": ("value_projection",)}, "'value_projection': is no linear .* did you mean 'value_proj'"),
        ({"self_attention": ("q",)}, "'q': is no linear of this attention; use some of q_proj, k_proj, v_proj"),
        ({"deformable": (), "self_attention": ()}, "the target modules: are none"),
        ({"rank": 0}, "rank 0: is below 1"),
        ({"rank": 33}, "rank 33: is above the size of .* whose smaller side is 32; use a rank of at most 32"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        with_lora(tiny_mask2former(), **settings)


def test_a_head_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"head 'class_predicter': is no module .* did you mean 'class_predictor'"):
        head_names(tiny_mask2former(), ("class_predicter",))


def test_other_models_are_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match="has no deformable attention"):
        require_deformable(torch.nn.Linear(2, 2))
    model = tiny_mask2former()
    model.config.model_type = "oneformer"
    with pytest.raises(UnsupportedArchitecture, match="heads are known; name the heads"):
        head_names(model)
