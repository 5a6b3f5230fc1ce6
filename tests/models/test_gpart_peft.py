"""What PEFT asks of every tuner, of ours, on tiny decoders and an encoder-decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from featherweight.models.gpart import GPartConfig
from gpart_models import llama

IDS = torch.arange(24).view(2, 12)


def qwen() -> Any:
    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, tie_word_embeddings=True,
    )).eval()  # fmt: skip


def t5() -> Any:
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
        initializer_factor=1.0,
    )).eval()  # fmt: skip


MODELS: dict[str, tuple[Callable[[], Any], list[str], dict[str, Any]]] = {
    "llama": (llama, ["q_proj", "v_proj", "down_proj"], {}),
    "qwen2": (qwen, ["q_proj", "v_proj", "down_proj"], {}),
    "t5": (t5, ["q", "v", "wo"], {"decoder_input_ids": IDS.flip(1)}),
}


class Case:
    """A model, what of it is adapted, and its logits."""

    def __init__(self, name: str) -> None:
        self.base, self.targets, self.inputs = MODELS[name]
        self.task = "SEQ_2_SEQ_LM" if name == "t5" else "CAUSAL_LM"
        self.head = "lm_head"

    def config(self, **fields: Any) -> GPartConfig:
        return GPartConfig(**{"target_modules": self.targets, "dimension": 200, "task_type": self.task, **fields})

    def adapted(self, value: int | None = 1, **fields: Any) -> Any:
        wrapped = peft.get_peft_model(self.base(), self.config(**fields))
        return self.fill(wrapped, "default", value)

    def fill(self, wrapped: Any, name: str, value: int | None) -> Any:
        """Random numbers in an adapter's vector; None leaves it."""
        if value is not None:
            with torch.no_grad():
                wrapped.base_model.gpart_theta[name].normal_(generator=torch.Generator().manual_seed(value))
        return wrapped

    @torch.no_grad()
    def logits(self, module: Any) -> torch.Tensor:
        return module(input_ids=IDS, **self.inputs).logits

    def backward(self, module: Any) -> None:
        module(input_ids=IDS, labels=IDS).loss.backward()


@pytest.fixture(params=sorted(MODELS))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_starts_as_the_base_and_can_be_disabled(case: Case) -> None:
    base = case.logits(case.base())
    assert torch.equal(case.logits(case.adapted(None)), base)
    wrapped = case.adapted()
    changed = case.logits(wrapped)
    assert (changed - base).abs().max() > 1e-2
    with wrapped.disable_adapter():
        assert torch.equal(case.logits(wrapped), base)
    assert torch.equal(case.logits(wrapped), changed)


def test_disabled_while_merged(case: Case) -> None:
    wrapped = case.adapted()
    wrapped.merge_adapter()
    with wrapped.disable_adapter():
        assert torch.allclose(case.logits(wrapped), case.logits(case.base()), atol=1e-4)


def test_only_the_vector_is_trained(case: Case) -> None:
    wrapped = case.adapted(None)
    trained = [name for name, each in wrapped.named_parameters() if each.requires_grad]
    assert trained == ["base_model.gpart_theta.default"]
    case.backward(wrapped)
    assert wrapped.base_model.gpart_theta["default"].grad.count_nonzero() > 190


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded(case: Case, tmp_path: Path, low_cpu_mem_usage: bool) -> None:
    wrapped = case.adapted()
    wrapped.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(case.base(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.allclose(case.logits(again), case.logits(wrapped), atol=1e-6)
    assert not any(each.requires_grad for each in again.parameters())
    assert not any(each.is_meta for each in again.parameters())
    going_on = peft.PeftModel.from_pretrained(case.base(), tmp_path, is_trainable=True)
    case.backward(going_on)
    assert going_on.base_model.gpart_theta["default"].grad.any()


def test_nothing_is_missing_or_left_over(case: Case, tmp_path: Path) -> None:
    wrapped = case.adapted()
    wrapped.save_pretrained(tmp_path)
    assert sorted(peft.get_peft_model_state_dict(wrapped)) == ["base_model.gpart_theta"]
    found = case.adapted(None).load_adapter(tmp_path, "again")
    assert found.missing_keys == []
    assert found.unexpected_keys == []


def test_merged_and_unloaded(case: Case) -> None:
    wrapped = case.adapted()
    before = case.logits(wrapped)
    merged = copy.deepcopy(wrapped).merge_and_unload(safe_merge=True)
    assert torch.allclose(case.logits(merged), before, atol=1e-4)
    assert type(merged) is type(case.base())
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in case.base().named_parameters()]
    assert torch.equal(case.logits(wrapped.unload()), case.logits(case.base()))


def test_several_adapters(case: Case, tmp_path: Path) -> None:
    wrapped = case.adapted()
    first = case.logits(wrapped)
    wrapped.add_adapter("other", case.config(dimension=50, seed=7, target_modules=case.targets[:1]))
    assert torch.equal(case.logits(wrapped), first)
    assert [name for name, each in wrapped.named_parameters() if each.requires_grad] == [
        "base_model.gpart_theta.default"
    ]
    case.fill(wrapped, "other", 2)
    wrapped.set_adapter("other")
    second = case.logits(wrapped)
    assert (second - first).abs().max() > 1e-2
    assert [name for name, each in wrapped.named_parameters() if each.requires_grad] == ["base_model.gpart_theta.other"]
    wrapped.save_pretrained(tmp_path, selected_adapters=["other"])
    alone = peft.PeftModel.from_pretrained(case.base(), tmp_path / "other")
    assert torch.allclose(case.logits(alone), second, atol=1e-6)
    wrapped.set_adapter("default")
    assert torch.equal(case.logits(wrapped), first)
    wrapped.base_model.set_adapter(["default", "other"])
    both = case.logits(wrapped)
    wrapped.merge_adapter(adapter_names=["default", "other"])
    assert torch.allclose(case.logits(wrapped), both, atol=1e-4)
    wrapped.unmerge_adapter()
    wrapped.set_adapter("default")
    wrapped.delete_adapter("other")
    assert list(wrapped.base_model.gpart_theta) == ["default"]
    assert torch.allclose(case.logits(wrapped), first, atol=1e-5)


def test_deleting_the_active_adapter_leaves_the_other(case: Case) -> None:
    wrapped = case.adapted()
    wrapped.add_adapter("other", case.config(seed=7))
    case.fill(wrapped, "other", 2)
    with pytest.warns(UserWarning, match="was active which is now deleted"):
        wrapped.delete_adapter("default")
    wrapped.set_adapter("other")
    case.backward(wrapped)
    assert wrapped.base_model.gpart_theta["other"].grad.any()


def test_modules_to_save(case: Case, tmp_path: Path) -> None:
    wrapped = case.adapted(modules_to_save=[case.head])
    case.backward(wrapped)
    trained = {name: each for name, each in wrapped.named_parameters() if each.requires_grad}
    assert len(trained) == 2
    assert all(each.grad is not None for each in trained.values())
    with torch.no_grad():
        for each in trained.values():
            each.add_(0.1 * torch.randn(each.shape, generator=torch.Generator().manual_seed(3)))
    wrapped.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(case.base(), tmp_path)
    assert torch.allclose(case.logits(again), case.logits(wrapped), atol=1e-6)
    assert (case.logits(again) - case.logits(case.adapted())).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtypes(case: Case, dtype: torch.dtype) -> None:
    wrapped = peft.get_peft_model(case.base().to(dtype), case.config())
    assert wrapped.base_model.gpart_theta["default"].dtype == torch.float32
    case.fill(wrapped, "default", 1)
    assert case.logits(wrapped).dtype == dtype
    case.backward(wrapped)
    merged = wrapped.merge_and_unload()
    assert {each.dtype for each in merged.parameters()} == {dtype}


def test_targets_by_expression_layers_and_exclusion(case: Case) -> None:
    last = case.targets[-1]
    by_expression = case.adapted(target_modules=rf".*\.{last}")
    assert {name.rpartition(".")[2] for name in by_expression.targeted_module_names} == {last}
    everything = case.adapted(target_modules="all-linear", exclude_modules=[last])
    leaves = {name.rpartition(".")[2] for name in everything.targeted_module_names}
    assert last not in leaves
    assert len(leaves) > 3


def test_one_block_only() -> None:
    wrapped = Case("llama").adapted(layers_to_transform=[1])
    assert {name.split(".")[2] for name in wrapped.targeted_module_names} == {"1"}


def test_targets_that_peft_chooses() -> None:
    assert {name.rpartition(".")[2] for name in Case("llama").adapted(target_modules=None).targeted_module_names} == {
        "q_proj", "v_proj",
    }  # fmt: skip


def test_generates(case: Case) -> None:
    wrapped = case.adapted()
    found = wrapped.generate(input_ids=IDS[:1], max_new_tokens=3, do_sample=False)
    assert found.shape[0] == 1


def test_copies_share_one_vector_of_their_own(case: Case) -> None:
    wrapped = case.adapted()
    before = case.logits(wrapped)
    twin = copy.deepcopy(wrapped)
    with torch.no_grad():
        twin.base_model.gpart_theta["default"].zero_()
    assert torch.equal(case.logits(twin), case.logits(case.base()))
    assert torch.equal(case.logits(wrapped), before)


def test_no_other_seed_no_other_generator(case: Case) -> None:
    torch.manual_seed(1)
    first = case.logits(case.adapted())
    torch.manual_seed(2)
    torch.rand(5)
    assert torch.equal(case.logits(case.adapted()), first)
    assert not torch.allclose(case.logits(case.adapted(seed=43)), first, atol=1e-3)
