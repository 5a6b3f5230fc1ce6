"""The slicer: exact against the same model with the dropped parts set to zero, on every architecture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from featherweight.core.architecture import EMBEDDING, HEAD, block_part, supported
from featherweight.core.errors import FormatError, SliceError
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.slicing import Keep, allowed_groups, reorder, slice_model
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model

BLOCKS, FFN, GROUPS, HIDDEN = 3, 256, 4, 64
SHAPE = {"num_hidden_layers": BLOCKS, "num_attention_heads": 8, "num_key_value_heads": GROUPS, "hidden_size": HIDDEN}
TOKENS = torch.arange(3, 3 + 48).reshape(2, 24) * 7 % 500


def opened(folder: Path, model_type: str = "llama", **changes: Any) -> Model:
    return open_folder(tiny_model(folder, model_type, **{**SHAPE, **changes}))


def everywhere(indices: Any) -> dict[int, list[int]]:
    return {block: list(indices) for block in range(BLOCKS)}


def zeroed_logits(model: Model, keep: Keep) -> torch.Tensor:
    """Logits of the whole model with everything that `keep` drops set to zero, written without the slicer."""
    module, architecture = model.module(), model.architecture
    hidden = [c for c in range(HIDDEN) if c not in (keep.hidden if keep.hidden is not None else range(HIDDEN))]
    embedding = module.model.embed_tokens
    embedding.weight.data = embedding.weight.data.clone()
    embedding.weight.data[:, hidden] = 0
    if architecture.tied:
        module.lm_head.weight = embedding.weight
    for index, block in enumerate(module.model.layers):
        if keep.blocks is not None and index not in keep.blocks:
            block.forward = lambda states, *args, **kwargs: states
            continue
        if keep.hidden is not None and hasattr(block.self_attn, "q_norm"):
            rescale_epsilon(block.self_attn.q_norm, HIDDEN / len(keep.hidden))
            rescale_epsilon(block.self_attn.k_norm, HIDDEN / len(keep.hidden))
        for linear in (block.self_attn.o_proj, block.mlp.down_proj):
            linear.weight.data = linear.weight.data.clone()
            linear.weight.data[hidden] = 0
        if keep.ffn is not None:
            block.mlp.down_proj.weight.data[:, [c for c in range(FFN) if c not in keep.ffn[index]]] = 0
        if keep.groups is not None:
            width = architecture.heads_a_group * architecture.head_dim
            for group in set(range(GROUPS)) - set(keep.groups[index]):
                block.self_attn.o_proj.weight.data[:, group * width : (group + 1) * width] = 0
    return logits(module)


def rescale_epsilon(norm: Any, factor: float) -> None:
    """The configuration has one epsilon for all norms, so those inside the attention get the rescaled one as well."""
    name = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"
    setattr(norm, name, getattr(norm, name) * factor)


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(TOKENS, use_cache=False).logits


def test_keeping_everything_is_the_same_model(any_architecture: Path) -> None:
    model = open_folder(any_architecture)
    a = model.architecture
    keep = Keep(
        blocks=range(a.blocks),
        ffn={block: range(a.size("ffn")) for block in range(a.blocks)},
        groups={block: range(a.kv_heads) for block in range(a.blocks)},
        hidden=range(a.size("hidden")),
    )
    assert slice_model(model, keep).fingerprint == model.fingerprint
    assert slice_model(model, Keep()).fingerprint == model.fingerprint


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", supported())
@pytest.mark.parametrize(
    "keep",
    [
        Keep(blocks=[0, 2]),
        Keep(ffn={0: range(0, 128), 1: range(64, 192), 2: range(1, 256, 2)}),
        Keep(groups={0: [0, 1], 1: [0, 3], 2: [1, 2]}),
        Keep(hidden=[c for c in range(HIDDEN) if c % 4 != 1]),
    ],
    ids=["blocks", "ffn", "groups", "hidden"],
)
def test_slicing_equals_zeroing(models_folder: Path, model_type: str, keep: Keep, tied: bool) -> None:
    model = opened(models_folder, model_type, tie_word_embeddings=tied)
    sliced = slice_model(model, keep)
    assert (logits(sliced.module()) - zeroed_logits(model, keep)).abs().max() <= 1e-5
    assert sliced.parameters < model.parameters
    assert sliced.nbytes == sum(sliced.stored(name).nbytes for name in sliced.entries)


@st.composite
def keeps(draw: st.DrawFn) -> Keep:
    def some(count: int, kept: int) -> list[int]:
        return sorted(draw(st.permutations(range(count)))[:kept])

    blocks = some(BLOCKS, draw(st.integers(1, BLOCKS)))
    channels, groups = draw(st.integers(1, FFN)), draw(st.sampled_from([1, 2, 4]))
    return Keep(
        blocks=blocks,
        ffn={block: some(FFN, channels) for block in blocks},
        groups={block: some(GROUPS, groups) for block in blocks},
        hidden=some(HIDDEN, 8 * draw(st.integers(2, HIDDEN // 8))),
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model_type=st.sampled_from(supported()), keep=keeps())
def test_any_plan_equals_zeroing(models_folder: Path, model_type: str, keep: Keep) -> None:
    model = opened(models_folder, model_type)
    sliced = slice_model(model, keep)
    expected = zeroed_logits(model, keep)
    # Norms compute in float32 whatever the weights are, and few channels amplify their rounding.
    assert (logits(sliced.module()) - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1)
    assert sliced.parameters == parameter_formula(sliced)


def parameter_formula(model: Model) -> int:
    """Weights of a model of these sizes, counted from its configuration."""
    c, kind = model.config, model.config["model_type"]
    hidden, ffn, head_dim = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    query, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    block = hidden * (2 * query + 2 * kv + 3 * ffn)
    block += {"qwen2": query + 2 * kv, "qwen3": 2 * head_dim, "gemma3_text": 2 * head_dim}.get(kind, 0)
    block += hidden * (4 if kind == "gemma3_text" else 2)
    embeddings = 1 if model.architecture.tied else 2
    return c["num_hidden_layers"] * block + embeddings * c["vocab_size"] * hidden + hidden


@pytest.mark.parametrize("model_type", supported())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_saved_model_loads_in_stock_transformers(
    models_folder: Path, tmp_path: Path, model_type: str, dtype: str
) -> None:
    model = open_folder(tiny_model(models_folder, model_type, dtype=dtype, **SHAPE))
    keep = Keep([1, 2], everywhere(range(32, 160)), everywhere([0, 2]), range(48))
    sliced = slice_model(model, keep)
    sliced.save(tmp_path / "saved")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert torch.equal(logits(stock), logits(sliced.module()))
    assert stock.config.num_attention_heads == 4
    assert stock.config.head_dim == 32
    assert open_folder(tmp_path / "saved").fingerprint == sliced.fingerprint
    expected = zeroed_logits(model, keep)
    assert (logits(stock) - expected).abs().max() <= (1e-5 if dtype == "float32" else 0.02 * expected.abs().max())


def test_layer_types_follow_their_blocks(models_folder: Path) -> None:
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    model = opened(models_folder, "gemma3_text", layer_types=types, sliding_window=8)
    keep = Keep(blocks=[1, 2])
    sliced = slice_model(model, keep)
    assert sliced.config["layer_types"] == types[1:]
    assert (logits(sliced.module()) - zeroed_logits(model, keep)).abs().max() <= 1e-5


def test_layer_types_that_a_default_made_are_written_out(models_folder: Path) -> None:
    model = opened(models_folder, "gemma3_text")
    model = dataclasses.replace(model, config={k: v for k, v in model.config.items() if k != "layer_types"})
    keep = Keep(blocks=[0, 2])
    assert slice_model(model, keep).config["layer_types"] == [model.settings["layer_types"][i] for i in (0, 2)]


def test_planned_formats_follow_their_blocks(models_folder: Path) -> None:
    model = opened(models_folder)
    planned = {
        name: f"int{2 + block}-g32" for block in range(3) for name in [model.architecture.linear(block, "mlp.up_proj")]
    }
    sliced = slice_model(model.with_changes(planned=planned), Keep(blocks=[0, 2]))
    assert [sliced.planned[sliced.architecture.linear(block, "mlp.up_proj")] for block in range(2)] == [
        "int2-g32",
        "int4-g32",
    ]


def test_nothing_is_read_before_it_is_needed(models_folder: Path) -> None:
    def never() -> Any:
        raise AssertionError("a tensor was read")

    model = opened(models_folder)
    blind = {name: dataclasses.replace(entry, load=never) for name, entry in model.entries.items()}
    sliced = slice_model(dataclasses.replace(model, entries=blind), Keep([0], {0: range(64)}, {0: [1]}, range(32)))
    assert sliced.parameters == parameter_formula(sliced)
    assert sliced.nbytes == 4 * sliced.parameters


@pytest.mark.parametrize(
    "name",
    [
        "Q4_0",
        "Q4_1",
        "Q5_1",
        "Q8_0",
        "IQ4_NL",
        "int4-g32",
        "int4-g32-asym",
        "int3-g32-asym",
        "int8-channel-asym",
        "BF16",
    ],
)
def test_rounded_tensors_keep_their_values_on_rows_and_whole_blocks(models_folder: Path, name: str) -> None:
    model = rounded(opened(models_folder), name)
    keep = Keep(ffn={0: range(64), 1: range(96, 160), 2: [*range(32), *range(224, 256)]}, groups=everywhere([1, 3]))
    sliced = slice_model(model, keep)
    down, up = "mlp.down_proj", "mlp.up_proj"
    for block, channels in keep.ffn.items():
        for module, pick in ((down, (slice(None), list(channels))), (up, (list(channels),))):
            weight = model.architecture.linear(block, module)
            assert torch.equal(sliced.tensor(weight), model.tensor(weight)[pick])
            assert sliced.entries[weight].format == name
            assert sliced.entries[weight].nbytes == sliced.stored(weight).nbytes


def test_other_columns_of_a_rounded_tensor_are_rounded_again(models_folder: Path) -> None:
    model = rounded(opened(models_folder), "Q8_0")
    channels = range(0, 256, 2)
    name = model.architecture.linear(0, "mlp.down_proj")
    sliced = slice_model(model, Keep(ffn=everywhere(channels))).stored(name)
    again = get("Q8_0").fit(model.tensor(name)[:, list(channels)])
    assert torch.equal(sliced.parts["blocks"], again.parts["blocks"])


def rounded(model: Model, name: str) -> Model:
    return model.with_changes({each: get(name).fit(model.tensor(each)) for each in model.architecture.linears()})


def test_a_rounded_embedding_is_rescaled_and_rounded_once(models_folder: Path) -> None:
    model = opened(models_folder, "gemma3_text")
    model = model.with_changes({EMBEDDING: get("Q8_0").fit(model.tensor(EMBEDDING))})
    sliced = slice_model(model, Keep(hidden=range(32)))
    again = get("Q8_0").fit(model.tensor(EMBEDDING)[:, :32] * 2**0.5)
    assert torch.equal(sliced.tensor(EMBEDDING), again.dequantize())


def test_rows_that_no_longer_fit_the_format_are_refused(models_folder: Path) -> None:
    model = rounded(opened(models_folder), "Q4_0")
    with pytest.raises(FormatError, match=r"down_proj.*multiple of 32"):
        slice_model(model, Keep(ffn=everywhere(range(48))))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (Keep(blocks=[]), "keep at least one"),
        (Keep(blocks=[1, 0]), "ascending order"),
        (Keep(blocks=[0, 0]), "without repeats"),
        (Keep(blocks=[0, 3]), "there are 3"),
        (Keep(hidden=[-1, 2]), "name -1"),
        (Keep(ffn={0: [1], 1: [1]}), "not given for block 2"),
        (Keep(ffn={0: [1], 1: [1], 2: [1, 2]}), "number 1 in one block and 2 in another"),
        (Keep(groups=everywhere([0, 1, 2])), "not a multiple of the number of attention heads"),
    ],
)
def test_bad_plans_are_refused(models_folder: Path, keep: Keep, message: str) -> None:
    with pytest.raises(SliceError, match=message):
        slice_model(opened(models_folder), keep)


def test_groups_are_needed_only_of_kept_blocks(models_folder: Path) -> None:
    sliced = slice_model(opened(models_folder), Keep(blocks=[2], groups={2: [3]}, ffn={2: range(32)}))
    assert (sliced.architecture.blocks, sliced.architecture.kv_heads) == (1, 1)


def test_allowed_groups_are_those_that_slice(models_folder: Path) -> None:
    llama, qwen = opened(models_folder), opened(models_folder, "qwen3")
    assert allowed_groups(llama) == [1, 2, 4]
    assert allowed_groups(qwen) == [1, 2, 3, 4]
    assert slice_model(qwen, Keep(groups=everywhere([0, 1, 3]))).architecture.kv_heads == 3


def test_slicing_twice_is_slicing_once(models_folder: Path) -> None:
    model = opened(models_folder, "phi3")
    once = slice_model(model, Keep(ffn=everywhere(range(0, 256, 4)), groups=everywhere([3])))
    twice = slice_model(
        slice_model(model, Keep(ffn=everywhere(range(0, 256, 2)), groups=everywhere([1, 3]))),
        Keep(ffn=everywhere(range(0, 128, 2)), groups=everywhere([1])),
    )
    assert twice.fingerprint == once.fingerprint


def test_untouched_tensors_are_shared(models_folder: Path) -> None:
    model = opened(models_folder)
    sliced = slice_model(model, Keep(ffn=everywhere(range(64))))
    for name in (EMBEDDING, HEAD, model.architecture.linear(1, "self_attn.q_proj")):
        assert sliced.entries[name] is model.entries[name], block_part(name)


class TestRenormalised:
    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("model_type", supported())
    def test_weights_are_plain_slices_and_norms_divide_by_what_is_left(
        self, models_folder: Path, model_type: str, tied: bool
    ) -> None:
        model = opened(models_folder, model_type, tie_word_embeddings=tied)
        hidden = sorted(set(range(model.architecture.size("hidden"))) - {1, 5, 9, 13, 17, 21, 25, 29})
        child = slice_model(model, Keep(hidden=hidden, renormalise=True))
        assert child.settings["rms_norm_eps"] == model.settings["rms_norm_eps"]
        name = "model.layers.0.input_layernorm.weight"
        assert torch.equal(child.tensor(name), model.tensor(name)[hidden])
        inputs = torch.randn(3, len(hidden), generator=torch.Generator().manual_seed(0))
        output = child.module().model.layers[0].input_layernorm(inputs)
        weight = child.architecture.norm_offset + child.tensor(name)
        root = (inputs.square().mean(-1, keepdim=True) + child.settings["rms_norm_eps"]).sqrt()
        torch.testing.assert_close(output, inputs / root * weight)

    def test_what_the_module_multiplies_embeddings_by_is_made_up_for(self, models_folder: Path) -> None:
        model = opened(models_folder, "gemma3_text")
        child = slice_model(model, Keep(hidden=range(32), renormalise=True))
        embedded = [each.module().get_input_embeddings()(TOKENS) for each in (model, child)]
        torch.testing.assert_close(embedded[1], embedded[0][..., :32])


class TestNarrowerHeads:
    @pytest.mark.parametrize("kept", [2, 16, 30])
    @pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
    def test_it_equals_zeroed_pairs(self, models_folder: Path, model_type: str, kept: int) -> None:
        model = opened(models_folder, model_type)
        child = slice_model(model, Keep(head_dim=kept))
        module, width = model.module(), model.architecture.head_dim
        stays = torch.zeros(width).index_fill_(0, torch.cat([torch.arange(kept // 2)] * 2), 1)
        stays[width // 2 :] = stays[: width // 2]
        for block in module.model.layers:
            for linear in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj):
                mask = stays.repeat(linear.weight.shape[0] // width)
                linear.weight.data = linear.weight.data * mask[:, None]
                if linear.bias is not None:
                    linear.bias.data = linear.bias.data * mask
        assert child.architecture.head_dim == kept
        assert (logits(child.module()) - logits(module)).abs().max() <= 1e-5

    def test_groups_and_channels_together(self, models_folder: Path) -> None:
        model = opened(models_folder)
        both = slice_model(model, Keep(groups=everywhere([1, 3]), head_dim=16))
        one_by_one = slice_model(slice_model(model, Keep(groups=everywhere([1, 3]))), Keep(head_dim=16))
        assert both.fingerprint == one_by_one.fingerprint

    def test_keeping_all_channels_is_the_same_model(self, models_folder: Path) -> None:
        model = opened(models_folder)
        assert slice_model(model, Keep(head_dim=model.architecture.head_dim)) is model

    @pytest.mark.parametrize("kept", [0, 3, 64])
    def test_torn_pairs_are_refused(self, models_folder: Path, kept: int) -> None:
        with pytest.raises(SliceError, match=rf"head channels to keep: are {kept} of 32; keep an even number"):
            slice_model(opened(models_folder), Keep(head_dim=kept))

    @pytest.mark.parametrize(
        ("model_type", "reason"),
        [("qwen3", "norms inside the heads"), ("gemma3_text", "no single base"), ("phi3", "in one matrix")],
    )
    def test_architectures_that_cannot_are_named(self, models_folder: Path, model_type: str, reason: str) -> None:
        with pytest.raises(SliceError, match=reason):
            slice_model(opened(models_folder, model_type), Keep(head_dim=16))


@pytest.mark.parametrize("model_type", supported())
def test_another_order_of_channels_computes_the_same(models_folder: Path, model_type: str) -> None:
    model = opened(models_folder, model_type)
    generator = torch.Generator().manual_seed(0)

    def shuffled(count: int) -> list[int]:
        return torch.randperm(count, generator=generator).tolist()

    ffn, groups = ({block: shuffled(count) for block in range(BLOCKS)} for count in (FFN, GROUPS))
    other = reorder(model, ffn, groups, shuffled(model.architecture.size("hidden")))
    assert other.fingerprint != model.fingerprint
    torch.testing.assert_close(logits(other.module()), logits(model.module()), atol=1e-5, rtol=1e-5)
    assert reorder(model).fingerprint == model.fingerprint
