"""GPart adapters on disk, and what is refused: other bases, versions, groups, targets, sizes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from featherweight.core.errors import AdapterError
from featherweight.core.partition import VERSIONS
from featherweight.models.gpart import GPartConfig, GPartModel
from featherweight.models.gpart_layer import GPartLayer
from gpart_models import ALL, adapted, linears, llama, logits, theta_of


def test_folder_is_about_four_bytes_a_number(tmp_path: Path) -> None:
    wrapped = adapted(dimension=10_000)
    wrapped.save_pretrained(tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert 40_000 < size < 40_400
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["seed"], saved["backend"], saved["backend_version"], saved["dimension"]) == (
        42,
        "stateless",
        1,
        10_000,
    )
    assert [name for name, *_ in saved["layout"]] == [name for name, _ in linears(llama())]
    assert sum(rows * columns for _, rows, columns, _ in saved["layout"]) == 3 * 7680


@pytest.mark.parametrize("scope", ["model", "transformer_block"])
@pytest.mark.parametrize("backend", VERSIONS)
def test_reloaded_computes_the_same(backend: str, scope: str, tmp_path: Path) -> None:
    wrapped = adapted(backend=backend, scope=scope)
    wrapped.save_pretrained(tmp_path)
    torch.manual_seed(99)
    again = peft.PeftModel.from_pretrained(llama(), tmp_path)
    assert torch.allclose(logits(again), logits(wrapped), atol=1e-6)


def test_a_configuration_can_be_used_for_two_models() -> None:
    config = GPartConfig(target_modules=ALL, dimension=300)
    for seed in range(2):
        peft.get_peft_model(llama(seed), config)
    assert config.layout is None
    assert config.base_digest is None


def edited(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    adapted().save_pretrained(tmp_path)
    return tmp_path


def refused(folder: Path, sentence: str, base: Any = None) -> None:
    base = llama() if base is None else base
    before, flags = logits(base), [each.requires_grad for each in base.parameters()]
    with pytest.raises(AdapterError, match=sentence):
        peft.PeftModel.from_pretrained(base, folder)
    assert torch.equal(logits(base), before)
    assert [each.requires_grad for each in base.parameters()] == flags
    assert not any(isinstance(each, GPartLayer) for each in base.modules())


def test_unknown_versions_and_back_ends_are_refused(saved: Path) -> None:
    refused(edited(saved, backend_version=2), r"back end 'stateless', version 2: is unknown here.*fastfood 1; use the")
    refused(edited(saved, backend="sha", backend_version=1), "back end 'sha', version 1: is unknown")


def test_other_bases_are_refused(saved: Path) -> None:
    refused(saved, "other values; load the base that it was trained on", llama(seed=1))
    refused(saved, r"is of \[48, 32\] there and of \[64, 32\] here", llama(intermediate_size=64))
    refused(saved, "is adapted there and not here", llama(num_hidden_layers=2))
    refused(saved, "is adapted here and not there", llama(num_hidden_layers=4))
    merged = adapted(seed=7).merge_and_unload()
    refused(saved, "with nothing merged into it", merged)


def test_the_same_base_in_bf16_is_no_other_base(saved: Path) -> None:
    again = peft.PeftModel.from_pretrained(llama().bfloat16(), saved)
    assert torch.allclose(logits(again).float(), logits(adapted()), atol=1.0)


def test_other_groups_are_refused(saved: Path) -> None:
    refused(edited(saved, seed=43), "the back end makes other groups here")


def test_unchecked_where_the_digest_is_cleared(saved: Path) -> None:
    peft.PeftModel.from_pretrained(llama(seed=1), edited(saved, base_digest=None))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dimension": 70_000}, "dimension 70000: is not from 1 to 23040.*use at most 23040, or more target modules"),
        ({"dimension": 70_000, "backend": "fastfood"}, "dimension 70000: is not from 1 to 23040"),
        ({"dimension": 24_000, "scope": "transformer_block"}, "dimension 8000: is not from 1 to 7680"),
        ({"dimension": 2, "scope": "transformer_block"}, "dimension 0: is not from 1"),
        ({"target_modules": ["q_prj"]}, "target modules q_prj: match no linear of the model; did you mean 'q_proj'"),
        ({"target_modules": ["xxxxxxxx"]}, "match no linear of the model; use some of q_proj, k_proj"),
        ({"target_modules": r".*\.zzz"}, "match no linear"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens: is a Embedding, and only linears are adapted"),
    ],
)
def test_refusals_leave_the_model_as_it_was(fields: dict[str, Any], sentence: str) -> None:
    base = llama()
    flags, names = [each.requires_grad for each in base.parameters()], [name for name, _ in base.named_modules()]
    with pytest.raises(AdapterError, match=sentence):
        adapted(base=base, **fields)
    assert [each.requires_grad for each in base.parameters()] == flags
    assert [name for name, _ in base.named_modules()] == names


def test_a_refused_second_adapter_leaves_the_first(tmp_path: Path) -> None:
    wrapped = adapted()
    before = logits(wrapped)
    with pytest.raises(AdapterError, match="is not from 1"):
        wrapped.add_adapter("second", GPartConfig(target_modules=["q_proj"], dimension=10**6))
    assert torch.equal(logits(wrapped), before)
    assert list(wrapped.peft_config) == ["default"]
    assert theta_of(wrapped).requires_grad
    wrapped.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dimension": 0}, "dimension=0: is no positive number"),
        ({"dropout": 1.0}, "dropout=1.0: is not from 0 to below 1"),
        ({"init_bound": -1.0}, "init_bound=-1.0: is below 0"),
        ({"scope": "layer"}, "scope='layer': is unknown; use one of model, transformer_block"),
        ({"backend": "fastfood", "isometric": False}, "means nothing to fastfood"),
        ({"target_modules": "x", "layers_to_transform": [1]}, "needs target modules that are listed"),
    ],
)
def test_bad_settings(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdapterError, match=re.escape(sentence)):
        GPartConfig(**fields)


def test_init_bound() -> None:
    wrapped = adapted(random=False, init_bound=0.02)
    assert 0.015 < float(theta_of(wrapped).detach().abs().max()) <= 0.02


def test_registered_once_only() -> None:
    from featherweight.models import peft_method

    peft_method.register("gpart", GPartConfig, GPartModel)
    assert peft.PeftType("GPART") is peft.PeftType["GPART"] is peft.PeftType.GPART
    assert "GPART" in list(peft.PeftType)
    assert peft.get_peft_config({"peft_type": "GPART", "dimension": 5}).dimension == 5
