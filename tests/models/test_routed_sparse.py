"""Routed models: what each row computes, saving and loading, folding, sizes, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from featherweight.core.architecture import block_part
from featherweight.core.errors import CheckpointError, DataError, FormatError, RecipeError, SliceError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.source import open_folder
from featherweight.core.sparsity import with_zeros
from featherweight.core.stream import head_weight, stream
from featherweight.export.checked import export_gguf, export_hugging_face
from featherweight.export.hugging_face import hugging_face_size
from featherweight.measure.overlap import union_of
from featherweight.models.routed_checkpoint import fold, is_routed, mask_name, masks_of, routed, router_of
from featherweight.techniques.quantize.rtn import Rtn
from featherweight.testing.tiny import tiny_model, write_json

DOMAINS = ("prose", "code", "chat")
TOKENS = torch.arange(3, 3 + 60).reshape(3, 20) * 7 % 500


def feed_forward(model: Model) -> list[str]:
    return [name for name in model.architecture.linears() if ".mlp." in name]


def drawn(model: Model, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        domain: {name: torch.rand(model.entries[name].shape, generator=generator) < 0.5 for name in feed_forward(model)}
        for domain in DOMAINS
    }


def made(folder: Path, fallback: str = "code") -> tuple[Model, Model, dict[str, dict[str, torch.Tensor]]]:
    """The parent, a routed model of it with random masks, and the masks."""
    parent = open_folder(folder)
    masks = drawn(parent)
    union = union_of(list(masks.values()))
    weights = {name: with_zeros(parent.stored(name), ~union[name]) for name in union}
    return parent, routed(parent, weights, masks, fallback), masks


def logits(model: Model) -> torch.Tensor:
    with torch.inference_mode():
        return model.module()(TOKENS).logits


def test_each_row_computes_what_its_domain_alone_would(any_architecture: Path) -> None:
    parent, model, masks = made(any_architecture)
    module, alone = model.module(), {}
    for domain in DOMAINS:
        zeroed = {name: parent.tensor(name) * masks[domain][name] for name in masks[domain]}
        alone[domain] = logits(parent.with_changes(zeroed))
    assert (alone["prose"] - alone["chat"]).abs().max() > 0.1
    with torch.inference_mode():
        for domain in DOMAINS:
            with module.route(domain):
                torch.testing.assert_close(module(TOKENS).logits, alone[domain], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(module(TOKENS).logits, alone["code"], rtol=1e-5, atol=1e-4)
        with module.route(["chat", None, "prose"]):
            mixed = module(TOKENS).logits
    for row, domain in enumerate(["chat", "code", "prose"]):
        torch.testing.assert_close(mixed[row], alone[domain][row], rtol=1e-5, atol=1e-4)


def test_generation_of_a_mixed_batch_is_that_of_each_row_alone(tiny: Path) -> None:
    _, model, _ = made(tiny)
    module, tags = model.module(), ["chat", "code", "prose"]
    settings = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    with module.route(tags):
        together = module.generate(TOKENS, **settings)
        beams = module.generate(TOKENS, **settings, num_beams=2)
    assert len(beams) == 3
    for row, tag in enumerate(tags):
        expected = module.folded(tag).generate(
            TOKENS[row : row + 1], **{**settings, "attention_mask": torch.ones(1, 20, dtype=torch.int64)}
        )
        assert torch.equal(together[row, : expected.shape[1]], expected[0])


def test_selecting_lasts_and_a_block_ends(tiny: Path) -> None:
    _, model, _ = made(tiny)
    module = model.module()
    with pytest.raises(ZeroDivisionError), module.route("chat"):
        raise ZeroDivisionError
    assert module.router.fallback == "code"
    before = module(TOKENS).logits
    module.select("chat")
    assert not torch.allclose(module(TOKENS).logits, before)
    again = copy.deepcopy(module)
    again.select("code")
    torch.testing.assert_close(again(TOKENS).logits, before)
    assert not torch.allclose(module(TOKENS).logits, before)


def test_saved_it_is_the_same_model_and_masks_count_in_its_bytes(any_architecture: Path, tmp_path: Path) -> None:
    parent, model, masks = made(any_architecture)
    model.save(tmp_path / "saved")
    reread = open_folder(tmp_path / "saved")
    assert reread.fingerprint == model.fingerprint != parent.fingerprint
    for domain in DOMAINS:
        found = masks_of(reread, domain)
        assert all(torch.equal(found[name], mask) for name, mask in masks[domain].items())
    bits = sum(-(-mask.numel() // 8) for mask in masks["code"].values()) * len(DOMAINS)
    assert reread.nbytes == model.nbytes == parent.nbytes + bits
    assert reread.parameters == parent.parameters
    other = routed(parent, {}, {**masks, "code": masks["chat"]}, "code")
    assert other.fingerprint != routed(parent, {}, masks, "code").fingerprint


def test_one_bit_of_one_mask_changes_the_fingerprint(tiny: Path) -> None:
    parent, _, masks = made(tiny)
    name = feed_forward(parent)[0]
    masks["chat"][name][0, 0] ^= True
    assert routed(parent, {}, masks, "code").fingerprint != routed(parent, {}, drawn(parent), "code").fingerprint


def test_transformers_loads_the_folder_and_writes_it_again(any_architecture: Path, tmp_path: Path) -> None:
    _, model, _ = made(any_architecture)
    model.save(tmp_path / "saved")
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(module).__name__ == model.architecture.class_name
    with torch.inference_mode():
        torch.testing.assert_close(module(TOKENS).logits, logits(model))
    module.save_pretrained(tmp_path / "again")
    model.tokenizer.save_pretrained(tmp_path / "again")
    reread = open_folder(tmp_path / "again")
    for name in model.entries:
        assert torch.equal(reread.tensor(name), model.tensor(name))
    assert router_of(reread) == router_of(model)


def test_masks_stay_bits_in_bfloat16(tiny: Path, tmp_path: Path) -> None:
    _, model, _ = made(tiny)
    model.save(tmp_path / "saved")
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    linear = module.model.layers[0].mlp.up_proj
    assert (linear.weight.dtype, linear.masks.dtype) == (torch.bfloat16, torch.uint8)
    assert module.folded("chat").dtype == torch.bfloat16


def test_streaming_block_by_block_computes_the_same(tiny: Path) -> None:
    _, model, _ = made(tiny)
    torch.testing.assert_close(stream(model, TOKENS) @ head_weight(model).T, logits(model), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tag", [*DOMAINS, None])
def test_folding_gives_the_ordinary_sparse_model(tiny: Path, tmp_path: Path, tag: str | None) -> None:
    parent, model, masks = made(tiny)
    folded, mask = fold(model, tag), masks[tag or "code"]
    assert not is_routed(folded)
    assert folded.entries.keys() == parent.entries.keys()
    assert folded.nbytes == parent.nbytes
    for name in parent.entries:
        expected = with_zeros(parent.stored(name), ~mask[name]) if name in mask else parent.tensor(name)
        assert torch.equal(folded.tensor(name), expected)
    folded.save(tmp_path / "folded")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "folded")
    assert type(stock).__name__ == "LlamaForCausalLM"
    with model.module().route(tag):
        torch.testing.assert_close(stock(TOKENS).logits, logits(folded))
    torch.testing.assert_close(model.module().folded(tag)(TOKENS).logits, logits(folded))


def test_folded_it_exports_to_gguf_and_hugging_face(tiny: Path, tmp_path: Path) -> None:
    _, model, _ = made(tiny)
    export_gguf(fold(model, "chat"), tmp_path / "chat.gguf")
    export_hugging_face(fold(model, "chat"), tmp_path / "chat")
    quantized = Rtn(format="int4-g64", embedding="keep").apply(fold(model, "chat"), Run())
    export_hugging_face(quantized, tmp_path / "rounded")


def test_with_its_masks_it_exports_to_a_hugging_face_folder_of_the_size_said(tiny: Path, tmp_path: Path) -> None:
    _, model, masks = made(tiny)
    export_hugging_face(model, tmp_path / "all")
    assert (tmp_path / "all/model.safetensors").stat().st_size == hugging_face_size(model)
    with safe_open(tmp_path / "all/model.safetensors", "pt") as file:
        name = mask_name(feed_forward(model)[0])
        assert torch.equal(file.get_tensor(name), model.tensor(name))
    reread = open_folder(tmp_path / "all")
    found = masks_of(reread, "chat")
    assert all(torch.equal(found[name], mask) for name, mask in masks["chat"].items())


def test_what_cannot_hold_masks_refuses_them(tiny: Path, tmp_path: Path) -> None:
    parent, model, _ = made(tiny)
    with pytest.raises(FormatError, match=r"RoutedSparseLlamaForCausalLM.*llama\.cpp.*fold"):
        export_gguf(model, tmp_path / "a.gguf")
    rounded = Rtn(format="int4-g64", embedding="keep").apply(model, Run())
    with pytest.raises(FormatError, match="knows no masks; fold"):
        export_hugging_face(rounded, tmp_path / "b")
    with pytest.raises(SliceError, match="masks that no longer fit"):
        slice_model(model, Keep(blocks=[0]))
    with pytest.raises(RecipeError, match="has no masks by domain"):
        fold(parent, "code")
    with pytest.raises(DataError, match=r"'cod'.*did you mean 'code'"):
        fold(model, "cod")
    module = model.module()
    module.select(["code", "chat"])
    with pytest.raises(DataError, match=r"3 rows.*2 tags"):
        module(TOKENS)
    assert not list(tmp_path.iterdir())


def test_masks_that_do_not_belong_to_the_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    _, model, _ = made(tiny)
    model.save(tmp_path / "saved")
    write_json(tmp_path / "saved/config.json", {"domains": ["prose", "code"], "fallback": "code"})
    with pytest.raises(CheckpointError, match=r"masks with shape \[3, .*says \[2, "):
        open_folder(tmp_path / "saved")
    name = mask_name(feed_forward(model)[0])
    model.with_changes(drop=[name]).save(tmp_path / "lacking")
    with pytest.raises(CheckpointError, match=f"lacks the tensor {name}"):
        open_folder(tmp_path / "lacking")


def test_every_block_has_the_same_masked_linears(tmp_path: Path) -> None:
    model = made(tiny_model(tmp_path, "phi3"))[1]
    assert model.config["masked"] == ["mlp.gate_up_proj", "mlp.down_proj"]
    assert {block_part(name) for name in model.entries if name.endswith(".masks")} == {
        "mlp.gate_up_proj.masks", "mlp.down_proj.masks",
    }  # fmt: skip
