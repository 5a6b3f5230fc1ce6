"""Frozen bases and checkpointed blocks: the same gradients from less memory, and nothing left on the disk."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from masked_rows import batch_of

from featherweight.core.checkpoint import entry_of
from featherweight.core.errors import OutputError, TrainingError
from featherweight.core.formats import get
from featherweight.core.formats.expand import expand, row_slice
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model
from featherweight.train import frozen
from featherweight.train.chunked_head import loss_of, reason_for_own_logits
from featherweight.train.frozen import FrozenLinear, kept, spilled
from featherweight.train.frozen_module import frozen_module, rounded
from featherweight.train.recompute import recomputed
from featherweight.train.spill import Spill

FORMATS = ("Q4_0", "Q4_1", "Q8_0", "int4-g32-asym", "int4-g32", "int8-channel", "int8-g32-asym", "BF16", "Q5_1")


def attach(module: torch.nn.Module, dropout: float = 0.0) -> peft.PeftModel:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=dropout)
    return peft.get_peft_model(module, config).train()


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    module.zero_grad()
    torch.manual_seed(1)
    loss_of(module, batch_of())[0].backward()
    return {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}


def model_of(folder: Path, **changes: object) -> Model:
    return open_folder(tiny_model(folder, num_hidden_layers=3, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FORMATS)
def test_quick_values_are_the_values(name: str) -> None:
    packed = get(name).fit(torch.randn(96, 64, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(expand(packed), packed.dequantize())
    assert torch.equal(expand(row_slice(packed, 32, 96)), packed.dequantize()[32:])


@pytest.mark.parametrize("name", ["F32", *FORMATS])
@pytest.mark.parametrize("piece", [1 << 22, 64 * 32])
def test_a_frozen_linear_is_the_dense_one_of_its_values(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "PIECE", piece)
    weight = torch.randn(96, 64)
    stored = weight if name == "F32" else get(name).fit(weight)
    entry = entry_of(stored)
    dense = torch.nn.Linear(64, 96)
    dense.weight = torch.nn.Parameter(expand(entry.load()), requires_grad=False)
    x = torch.randn(2, 5, 64, requires_grad=True)
    shapes: list[tuple[int, ...]] = []
    with Spill() as spill:
        for layer in (FrozenLinear(kept(entry), dense.bias.detach()), FrozenLinear(spilled(entry, spill), dense.bias)):
            assert len(layer.frozen.pieces) == (1 if piece > 64 * 96 else 3)
            wanted = dense(x)
            with torch.autograd.graph.saved_tensors_hooks(
                lambda each: (shapes.append(tuple(each.shape)), each)[1], lambda each: each
            ):
                found = layer(x)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-5)
            up = torch.randn_like(wanted)
            [one], [two] = torch.autograd.grad(found, x, up), torch.autograd.grad(wanted, x, up)
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
            assert torch.equal(layer.weight, dense.weight)
            ids = torch.tensor([[0, 95], [40, 40]])
            assert torch.equal(layer.frozen.take(ids), dense.weight[ids])
    assert (96, 64) not in shapes
    assert (64, 96) not in shapes


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("base", ["stored", "disk"])
def test_a_frozen_base_gives_the_gradients_of_the_dense_one(tmp_path: Path, tied: bool, base: str) -> None:
    model = model_of(tmp_path, tie_word_embeddings=tied, dtype="bfloat16")
    wanted = gradients(attach(model.module()))
    with Spill(tmp_path / "spill") as spill:
        adapted = attach(frozen_module(model, base, spill))
        found = gradients(adapted)
        assert reason_for_own_logits(adapted) is None
        assert not any(each.shape == (256, 64) for each in adapted.parameters())
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


def test_a_rounded_base_is_the_rounded_model(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    wanted = gradients(attach(rounded(model, "int4-g32-asym").module()))
    found = gradients(attach(frozen_module(model, "int4-g32-asym")))
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


def test_no_dense_weight_is_saved_for_the_backward_pass(tmp_path: Path) -> None:
    model = rounded(model_of(tmp_path), "Q4_0")
    adapted = attach(frozen_module(model, "stored"))
    forbidden = {tuple(entry.shape) for entry in model.entries.values() if len(entry.shape) == 2}
    forbidden |= {shape[::-1] for shape in forbidden}
    shapes: set[tuple[int, ...]] = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda each: (shapes.add(tuple(each.shape)), each)[1], lambda each: each
    ):
        total, _ = loss_of(adapted, batch_of())
    total.backward()
    assert shapes
    assert not shapes & forbidden


def test_a_merge_into_a_frozen_base_is_refused_and_not_lost(tmp_path: Path) -> None:
    adapted = attach(frozen_module(model_of(tmp_path), "stored"))
    with pytest.raises(TrainingError, match="changed in place"):
        adapted.merge_and_unload()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_gradients_of_checkpointed_blocks_are_bitwise_the_same(tmp_path: Path, dropout: float, where: str) -> None:
    adapted = attach(model_of(tmp_path).module(), dropout)
    wanted = gradients(adapted)
    folder = tmp_path / "spill"
    with Spill(folder) as spill, recomputed(adapted.get_base_model().model.layers, spill if where == "disk" else None):
        for _ in range(2):  # places in the file are used again
            found = gradients(adapted)
            assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())
            assert found.keys() == wanted.keys()
        assert spill.nbytes == (3 * 2 * 24 * 64 * 4 if where == "disk" else 0)
    assert list(folder.iterdir()) == []
    assert all(torch.equal(each, wanted[name]) for name, each in gradients(adapted).items())


def test_two_losses_can_wait_for_one_backward_pass(tmp_path: Path) -> None:
    adapted = attach(model_of(tmp_path).module())

    def both() -> dict[str, torch.Tensor]:
        adapted.zero_grad()
        (loss_of(adapted, batch_of(seed=1))[0] + loss_of(adapted, batch_of(seed=2))[0]).backward()
        return {name: each.grad.clone() for name, each in adapted.named_parameters() if each.grad is not None}

    wanted = both()
    with Spill(tmp_path / "spill") as spill, recomputed(adapted.get_base_model().model.layers, spill):
        found = both()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


def test_only_the_inputs_of_blocks_are_saved(tmp_path: Path) -> None:
    adapted = attach(model_of(tmp_path).module())

    def saved() -> int:
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_leaf:
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_of(adapted, batch_of())
        return sum(seen.values())

    plain = saved()
    with recomputed(adapted.get_base_model().model.layers):
        assert saved() < plain / 10


def test_a_switch_before_the_backward_pass_is_refused(tmp_path: Path) -> None:
    adapted = attach(model_of(tmp_path).module())
    with recomputed(adapted.get_base_model().model.layers):
        total, _ = loss_of(adapted, batch_of())
        with adapted.disable_adapter(), pytest.raises(TrainingError, match="something else"):
            total.backward()


def test_an_exception_leaves_no_file_and_no_wrapper(tmp_path: Path) -> None:
    adapted = attach(model_of(tmp_path).module())
    blocks = adapted.get_base_model().model.layers
    folder = tmp_path / "spill"

    def fail_halfway() -> None:
        with Spill(folder) as spill, recomputed(blocks, spill):
            loss_of(adapted, batch_of())
            opened.append(spill)
            raise ZeroDivisionError

    opened: list[Spill] = []
    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert opened[0].nbytes > 0
    assert list(folder.iterdir()) == []
    assert opened[0].closed
    assert not any("forward" in vars(block) for block in blocks)


def test_a_closed_or_unusable_file_says_so(tmp_path: Path) -> None:
    with Spill(tmp_path) as spill:
        place = spill.put(torch.ones(3))
    with pytest.raises(OutputError, match="cannot be used"):
        spill.get(place)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="cannot be used"):
        Spill(blocked)


def test_what_is_spilled_comes_back(tmp_path: Path) -> None:
    tensors = [torch.randn(5, 3), torch.arange(7, dtype=torch.int32), torch.randn(4).bfloat16()]
    with Spill(tmp_path) as spill:
        places = [spill.put(each) for each in tensors]
        for place in places:
            spill.prefetch(place)
        for place, tensor in zip(places, tensors, strict=True):
            assert torch.equal(spill.pop(place), tensor)
        before = spill.nbytes
        again = spill.put(torch.ones(5, 3))
        assert spill.nbytes == before
        assert torch.equal(spill.get(again), torch.ones(5, 3))


def test_lent_pieces_have_the_values_of_kept_ones(tmp_path: Path) -> None:
    """And the next matrix takes their memory, so nothing that was kept before may change."""
    packed = get("Q4_1").fit(torch.randn(96, 64, generator=torch.Generator().manual_seed(3)))
    other = get("Q8_0").fit(torch.randn(96, 64, generator=torch.Generator().manual_seed(4)))
    frozen, second = kept(entry_of(packed)), kept(entry_of(other))
    whole = frozen.dense()
    for (first, lent), (start, own) in zip(frozen.lent(), frozen, strict=True):
        assert first == start
        assert torch.equal(lent, own)
    [(_, lent)] = second.lent()
    assert torch.equal(lent, other.dequantize())
    assert torch.equal(whole, packed.dequantize())


@pytest.mark.parametrize("name", ["Q4_1", "Q8_0", "int4-g32", "Q6_K"])
def test_rows_that_are_taken_have_the_values_of_the_whole(name: str) -> None:
    packed = get(name).fit(torch.randn(96, 256, generator=torch.Generator().manual_seed(5)))
    rows = torch.tensor([[3, 95], [40, 3]])
    assert torch.equal(kept(entry_of(packed)).take(rows), packed.dequantize()[rows])
