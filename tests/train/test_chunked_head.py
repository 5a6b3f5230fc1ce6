"""The head's loss in pieces: the full path's loss and gradients, and what is saved for the backward pass."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_rows import batch_of

from featherweight.core.batch import Batch
from featherweight.core.source import open_folder
from featherweight.testing.tiny import VOCABULARY, tiny_model
from featherweight.train import chunked_head
from featherweight.train.chunked_head import Head, chunked_nll, logit_parts, loss_of, reason_for_own_logits
from featherweight.train.subset_softmax import Subset


def granite(model_type: str, **changes: object) -> transformers.PreTrainedConfig:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.AutoConfig.for_model(
        model_type, vocab_size=VOCABULARY, num_key_value_heads=2, **sizes, **changes
    )


def lora(folder: Path, targets: str = "all-linear", **changes: object) -> peft.PeftModel:
    torch.manual_seed(0)
    if changes.get("model_type") == "granite":  # not one of ours, but a head like no other
        module = transformers.AutoModelForCausalLM.from_config(granite(**changes))
    else:
        module = open_folder(tiny_model(folder, **changes)).module()  # type: ignore[arg-type]
    adapted = peft.get_peft_model(module, peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    return adapted.train()


def full(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
    logits = module(**batch.inputs()).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch.targets.reshape(-1), ignore_index=-100, reduction="sum"
    )


def gradients(module: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("qwen2", {}),
        ("gemma3_text", {"final_logit_softcapping": 3.0}),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_loss_and_gradients_are_those_of_all_logits(
    tmp_path: Path, model_type: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_head, "PIECE", 64 * 100)  # the vocabulary of 512 in pieces of 100 or 50
    monkeypatch.setattr(chunked_head, "LOGITS", 700)  # and few positions at a time
    module = lora(tmp_path, model_type=model_type, **changes)
    batch = batch_of()
    expected = full(module, batch)
    wanted = gradients(module, expected)
    for _ in range(2):  # the first call compares the head with the module's own logits
        total, count = loss_of(module, batch)
        assert count == batch.trainable
        torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-5)
        found = gradients(module, total)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-6 * float(gradient.abs().max()))
    assert reason_for_own_logits(module) is None


def test_in_half_precision_the_head_still_goes_in_pieces(tmp_path: Path) -> None:
    half, batch = lora(tmp_path).to(torch.bfloat16), batch_of()
    own = float(full(half, batch).detach())
    assert float(loss_of(half, batch)[0].detach()) == pytest.approx(own, rel=0.01)
    assert reason_for_own_logits(half) is None


@pytest.mark.parametrize(
    ("targets", "changes"),
    [
        ("all-linear", {"tie_word_embeddings": True}),
        (r".*(q_proj|lm_head)", {"tie_word_embeddings": False}),
        ("all-linear", {"model_type": "gemma3_text", "final_logit_softcapping": 3.0}),
        ("all-linear", {"model_type": "granite", "logits_scaling": 4.0}),
    ],
)
def test_logits_of_final_states_are_those_of_the_module(
    tmp_path: Path, targets: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_head, "PIECE", 64 * 100)
    module = lora(tmp_path, targets, **changes).eval()
    causal, ids = module.get_base_model(), batch_of().ids

    def in_parts() -> torch.Tensor:
        states = causal.model(input_ids=ids).last_hidden_state[0]
        return torch.cat([logits(states) for _, _, logits in logit_parts(causal)], -1)

    with torch.no_grad():
        torch.testing.assert_close(in_parts(), module(ids).logits[0])
        with module.disable_adapter():
            torch.testing.assert_close(in_parts(), module(ids).logits[0])


def test_a_head_with_an_adapter_keeps_its_own_logits(tmp_path: Path) -> None:
    module = lora(tmp_path, targets=r".*(q_proj|lm_head)", tie_word_embeddings=False)
    batch = batch_of()
    expected = full(module, batch)
    wanted = gradients(module, expected)
    total, _ = loss_of(module, batch)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-5)
    found = gradients(module, total)
    assert any("lm_head" in name for name in found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-6 * float(gradient.abs().max()))
    assert "Linear" in str(reason_for_own_logits(module))


def test_a_head_that_computes_something_unknown_keeps_its_own_logits(tmp_path: Path) -> None:
    module = lora(tmp_path, tie_word_embeddings=False)
    module.get_output_embeddings().register_forward_hook(lambda layer, args, output: output + output.sin())
    batch = batch_of()
    torch.testing.assert_close(loss_of(module, batch)[0], full(module, batch), rtol=1e-6, atol=1e-5)
    assert "more than" in str(reason_for_own_logits(module))


def test_a_trained_head_gets_its_gradient(tmp_path: Path) -> None:
    module = open_folder(tiny_model(tmp_path, tie_word_embeddings=False)).module()
    module.get_output_embeddings().weight.requires_grad_(True)
    batch = batch_of()
    loss_of(module, batch)[0].backward()
    found = module.get_output_embeddings().weight.grad.clone()
    module.zero_grad()
    full(module, batch).backward()
    torch.testing.assert_close(found, module.get_output_embeddings().weight.grad, rtol=1e-4, atol=1e-6)
    assert reason_for_own_logits(module) == "it is trained"


def test_a_head_that_is_thawed_later_gets_its_gradient(tmp_path: Path) -> None:
    module, batch = lora(tmp_path, tie_word_embeddings=False), batch_of()
    loss_of(module, batch)
    assert reason_for_own_logits(module) is None
    module.get_output_embeddings().weight.requires_grad_(True)
    assert "trained" in str(reason_for_own_logits(module))
    loss_of(module, batch)[0].backward()
    assert module.get_output_embeddings().weight.grad is not None


def test_nothing_trainable_is_no_loss_and_no_gradient(tmp_path: Path) -> None:
    module, batch = lora(tmp_path), batch_of(share=0.0)
    total, count = loss_of(module, batch)
    assert (float(total.detach()), count) == (0.0, 0)
    assert all(bool((each == 0).all()) for each in gradients(module, total).values())


def test_masked_positions_get_no_gradient_from_the_head() -> None:
    hidden = torch.randn(10, 8, requires_grad=True)
    weight, wanted = torch.randn(30, 8), torch.tensor([1, 4, 7])
    head = Head(lambda: iter([(0, weight)]), 30)
    chunked_nll(hidden[wanted], torch.tensor([3, 0, 29]), head).backward()
    masked = torch.ones(10, dtype=torch.bool)
    masked[wanted] = False
    assert hidden.grad is not None
    assert bool((hidden.grad[masked] == 0).all())
    assert bool((hidden.grad[wanted] != 0).any(1).all())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 40), st.integers(1, 50), st.integers(0, 2**20), st.booleans())
def test_any_cut_of_the_vocabulary_gives_the_same(
    size: int, vocabulary: int, step: int, seed: int, capped: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocabulary, 6, generator=generator, dtype=torch.float32) * 3
    bias = torch.randn(vocabulary, generator=generator)
    hidden = torch.randn(size, 6, generator=generator).requires_grad_(True)
    targets = torch.randint(0, vocabulary, (size,), generator=generator)
    cap = 5.0 if capped else None

    def pieces():  # type: ignore[no-untyped-def]
        return ((first, weight[first : first + step]) for first in range(0, vocabulary, step))

    total = chunked_nll(hidden, targets, Head(pieces, vocabulary, bias, 0.5, cap))
    [found] = torch.autograd.grad(total, hidden)
    logits = 0.5 * (hidden @ weight.T + bias)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    [wanted] = torch.autograd.grad(expected, hidden)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def saved_bytes(run) -> int:  # type: ignore[no-untyped-def]
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_leaf:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(seen.values())


def test_saved_logits_shrink_to_the_trainable_share_and_then_to_nothing() -> None:
    tokens, vocabulary, share = 200, 512, 0.3
    weight, states = torch.randn(vocabulary, 8), torch.randn(tokens, 8, requires_grad=True)
    wanted = torch.zeros(tokens, dtype=torch.bool)
    wanted[: round(share * tokens)] = True
    targets = torch.randint(0, vocabulary, (tokens,))
    hidden = states * 1.0

    def naive(which: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(hidden[which] @ weight.T, targets[which], reduction="sum")

    everything = saved_bytes(lambda: naive(torch.ones(tokens, dtype=torch.bool)))
    masked = saved_bytes(lambda: naive(wanted))
    assert abs(masked / everything - share) < 0.02
    head = Head(lambda: iter([(0, weight)]), vocabulary)
    assert saved_bytes(lambda: chunked_nll(hidden[wanted], targets[wanted], head)) < 0.1 * masked


def test_a_subset_of_everything_is_the_full_softmax(tmp_path: Path) -> None:
    module, batch = lora(tmp_path), batch_of()
    exact, _ = loss_of(module, batch)
    whole, _ = loss_of(module, batch, Subset(VOCABULARY))
    torch.testing.assert_close(whole, exact, rtol=1e-6, atol=1e-5)


def test_a_subset_holds_the_labels_and_never_raises_the_loss(tmp_path: Path) -> None:
    module = lora(tmp_path)
    for neighbours in (1, 5, 50):
        subset = Subset(neighbours)
        for seed in range(3):
            batch = batch_of(seed=seed)
            head = chunked_head.head_of(module)
            labels = batch.targets[batch.targets != -100]
            chosen = subset.tokens(head, labels)
            assert bool(torch.isin(labels, chosen).all())
            assert len(chosen) <= neighbours * len(labels.unique())
            approximate, exact = loss_of(module, batch, subset)[0], loss_of(module, batch)[0]
            assert float(approximate.detach()) <= float(exact.detach()) + 1e-4


def test_neighbours_are_those_of_greatest_cosine() -> None:
    weight = torch.randn(40, 6)
    head = Head(lambda: ((first, weight[first : first + 7]) for first in range(0, 40, 7)), 40)
    chosen = Subset(5).tokens(head, torch.tensor([11]))
    cosine = torch.nn.functional.cosine_similarity(weight[11][None], weight, dim=-1)
    assert chosen.tolist() == sorted(cosine.topk(5).indices.tolist())


def test_an_evaluation_is_always_the_full_softmax(tmp_path: Path) -> None:
    module, batch = lora(tmp_path), batch_of()
    exact = float(loss_of(module, batch)[0].detach())
    module.eval()
    assert float(loss_of(module, batch, Subset(1))[0]) == pytest.approx(exact, rel=1e-6)
    module.train()
    with torch.no_grad():
        assert float(loss_of(module, batch, Subset(1))[0]) == pytest.approx(exact, rel=1e-6)


def test_the_mean_divides_by_the_trainable_tokens_of_the_whole_update(tmp_path: Path) -> None:
    module, whole = lora(tmp_path), batch_of(rows=4)
    total, count = loss_of(module, whole)
    wanted = gradients(module, total / count)
    module.zero_grad()
    for row in range(4):
        part = Batch(*(each[row : row + 1] for each in (whole.ids, whole.labels, whole.positions, whole.segments)))
        (loss_of(module, part)[0] / count).backward()
    for name, each in module.named_parameters():
        if each.requires_grad:
            torch.testing.assert_close(each.grad, wanted[name], rtol=1e-4, atol=1e-6)
