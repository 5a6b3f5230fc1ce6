"""Optimizers by name: who gets which tensor, what AdamW and Muon do through our building, the bytes of every state."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import MissingExtra, RecipeError
from featherweight.train.loop import Schedule, minimise
from featherweight.train.optimizer_state import counted_bytes, state_bytes
from featherweight.train.optimizers import (
    build_optimizer,
    embeddings_of,
    find_optimizer,
    installed,
    optimizers,
    role_of,
    spread,
)

SHAPES = {
    "embed_tokens.weight": (100, 64), "layers.0.up.weight": (256, 128), "layers.0.down.weight": (128, 256),
    "layers.0.odd.weight": (33, 7), "layers.0.norm.weight": (128,), "layers.0.kernel.weight": (8, 4, 3),
    "lm_head.weight": (100, 64),
}  # fmt: skip


PLAIN = ["sgd", "sgd-momentum", "adamw", "adafactor"]


def network(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def stepped(name: str, tensors: dict[str, torch.Tensor], **options: object) -> torch.optim.Optimizer:
    """An optimizer after one step on some gradient."""
    optimizer = build_optimizer(name, tensors.items(), **options)
    generator = torch.Generator().manual_seed(1)
    for each in tensors.values():
        each.requires_grad_(True)
        each.grad = torch.randn(each.shape, generator=generator).to(each.dtype)
    optimizer.step()
    return optimizer


def test_roles_by_name_and_by_module() -> None:
    roles = {name: role_of(name, shape) for name, shape in SHAPES.items()}
    assert list(roles.values()) == ["embedding", "matrix", "matrix", "matrix", "vector", "tensor", "embedding"]
    assert role_of("layers.0.up.weight", (2, 2), {"layers.0.up.weight"}) == "embedding"
    assert role_of("embed_tokens.weight", (2, 2), set()) == "matrix"
    module = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 3))
    assert embeddings_of(module) == {"0.weight"}


def test_adamw_without_decay_is_torchs_bit_for_bit() -> None:
    def trained(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        def loss(step: int) -> torch.Tensor:
            return sum(((each - step) ** 2).mean() for each in tensors.values())  # type: ignore[return-value]

        minimise(tensors.values(), loss, Schedule(5, 1e-2), optimizer=optimizer)
        return [each.detach() for each in tensors.values()]

    ours, theirs = network(), network()
    one = trained(build_optimizer("adamw", ours.items()), ours)
    two = trained(torch.optim.AdamW(theirs.values(), weight_decay=0.0), theirs)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", [*PLAIN, "muon"])
def test_every_optimizer_of_torch_learns_through_the_loop(name: str) -> None:
    tensors = network()
    optimizer = build_optimizer(name, tensors.items())

    def loss(_: int) -> torch.Tensor:
        return sum((each**2).mean() for each in tensors.values())  # type: ignore[return-value]

    losses = minimise(tensors.values(), loss, Schedule(30, find_optimizer(name).learning_rate), optimizer=optimizer)
    assert losses[-1] < losses[0]


def test_adamws_first_step_is_decay_and_the_sign() -> None:
    p = {"layers.0.w": torch.randn(5, 4, dtype=torch.float64)}
    before = p["layers.0.w"].clone()
    optimizer = build_optimizer("adamw", p.items(), 1e-2, weight_decay=0.1, eps=1e-30)
    p["layers.0.w"].grad = torch.randn(5, 4, dtype=torch.float64)
    sign = p["layers.0.w"].grad.sign()
    optimizer.step()
    assert torch.allclose(p["layers.0.w"], before * (1 - 1e-2 * 0.1) - 1e-2 * sign, rtol=0, atol=1e-15)


def test_adamw_without_memory_is_sign_descent_for_ever() -> None:
    p = {"layers.0.w": torch.zeros(6, 3, dtype=torch.float64)}
    optimizer = build_optimizer("adamw", p.items(), 1e-2, betas=(0.0, 0.0), eps=1e-300)
    expected, generator = torch.zeros(6, 3, dtype=torch.float64), torch.Generator().manual_seed(0)
    for _ in range(20):
        p["layers.0.w"].grad = torch.randn(6, 3, dtype=torch.float64, generator=generator)
        expected -= 1e-2 * p["layers.0.w"].grad.sign()
        optimizer.step()
    assert torch.allclose(p["layers.0.w"], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_decay_is_decoupled_and_spares_vectors(name: str) -> None:
    tensors = {key: each.double() for key, each in network().items()}
    before = {key: each.clone() for key, each in tensors.items()}
    optimizer = build_optimizer(name, tensors.items(), 1e-2, weight_decay=0.5)
    for each in tensors.values():
        each.grad = torch.zeros_like(each)
    rate = 1.0 if name == "adafactor" else 1e-2
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    for key, each in tensors.items():
        kept = 1.0 if each.dim() == 1 else 1 - rate * 0.5
        assert torch.allclose(each, before[key] * kept, rtol=1e-6, atol=0), key


def test_muon_moves_matrices_and_adamw_the_rest() -> None:
    one, two = network(), network()
    optimizer = stepped("muon", one, learning_rate=1e-3)
    stepped("adamw", two, learning_rate=1e-3)
    for key in SHAPES:
        held = optimizer.state[one[key]]
        if role_of(key, SHAPES[key]) == "matrix":
            assert set(held) == {"momentum_buffer"}
        else:
            assert {"exp_avg", "exp_avg_sq"} <= set(held)
            assert torch.equal(one[key], two[key])


def test_muon_alone_refuses_a_vector_which_is_why_we_route() -> None:
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([torch.zeros(3)])


@pytest.mark.parametrize("shape", [(256, 128), (96, 256)])
def test_muons_update_is_nearly_orthogonal_and_blind_to_scale(shape: tuple[int, int]) -> None:
    def update(scale: float) -> torch.Tensor:
        p = {"layers.0.w": torch.zeros(shape)}
        optimizer = build_optimizer("muon", p.items(), 1.0)
        p["layers.0.w"].grad = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        return -p["layers.0.w"]

    size = 0.2 * math.sqrt(max(shape))
    found = update(1.0) / size
    values = torch.linalg.svdvals(found)
    assert float(values.min()) >= 0.6
    assert float(values.max()) <= 1.25
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    assert float(torch.nn.functional.cosine_similarity(found.flatten(), (u @ vh).flatten(), 0)) >= 0.98
    # As large as a step of AdamW, so that the two halves can share a rate.
    assert 0.15 <= size * float(found.square().mean().sqrt()) <= 0.21
    assert torch.allclose(found, update(1000.0) / size, rtol=0, atol=8e-3)


def test_two_optimizers_as_one_take_rates_and_checkpoints() -> None:
    one, two = network(), network()
    first, second = stepped("muon", one), build_optimizer("muon", two.items())
    for key, each in one.items():
        two[key].requires_grad_(True)
        two[key].data.copy_(each.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, tensors in ((first, one), (second, two)):
        for group in optimizer.param_groups:
            group["lr"] = 0.05
        for each in tensors.values():
            each.grad = torch.ones_like(each)
        optimizer.step()
    assert all(torch.equal(one[key], two[key]) for key in SHAPES)
    assert counted_bytes(first) == counted_bytes(second) == state_bytes("muon", SHAPES).total


def test_factors_become_groups_of_their_own() -> None:
    tensors = network()
    optimizer = build_optimizer("adamw", tensors.items(), factors={"layers.0.up.weight": 0.5})
    [group] = [each for each in optimizer.param_groups if each["factor"] == 0.5]
    assert [id(each) for each in group["params"]] == [id(tensors["layers.0.up.weight"])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(optimizers()))
def test_state_bytes_are_exact(name: str, dtype: torch.dtype) -> None:
    if name not in installed():
        pytest.skip("not installed")
    tensors = network(dtype)
    try:
        optimizer = stepped(name, tensors)
    except RuntimeError as error:
        if "compiler" in str(error).lower():
            pytest.skip("torchao compiles its step, and there is no compiler")
        raise
    assert counted_bytes(optimizer) == state_bytes(name, SHAPES, dtype.itemsize).total


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    name=st.sampled_from(["sgd", "sgd-momentum", "adamw", "adafactor"]),
)
def test_state_bytes_of_any_matrix(rows: int, columns: int, name: str) -> None:
    tensors = {"layers.0.w": torch.ones(rows, columns)}
    optimizer = build_optimizer(name, tensors.items())
    tensors["layers.0.w"].grad = torch.ones(rows, columns)
    optimizer.step()
    assert counted_bytes(optimizer) == state_bytes(name, {"layers.0.w": (rows, columns)}).total


@pytest.mark.parametrize(
    ("name", "bytes_each"), [("sgd", 0), ("sgd-momentum", 4), ("adamw", 8), ("muon", 4), ("adafactor", 0.046875)]
)
def test_bytes_a_parameter_of_a_matrix(name: str, bytes_each: float) -> None:
    assert state_bytes(name, {"layers.0.w": (256, 128)}).total == bytes_each * 256 * 128


def smollm2() -> dict[str, tuple[int, ...]]:
    """Shapes of SmolLM2-135M, whose embedding is its head."""
    block = {
        "q_proj": (576, 576), "k_proj": (192, 576), "v_proj": (192, 576), "o_proj": (576, 576),
        "gate_proj": (1536, 576), "up_proj": (1536, 576), "down_proj": (576, 1536), "one_norm": (576,),
        "two_norm": (576,),
    }  # fmt: skip
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(30) for name, shape in block.items()}
    return {"model.embed_tokens.weight": (49152, 576), "model.norm.weight": (576,), **shapes}


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("sgd", 0), ("sgd-momentum", 513), ("lion", 513), ("adamw", 1026), ("muon", 621), ("adamw-8bit", 261),
        ("adafactor", 1.5), ("galore", 467),
    ],
)  # fmt: skip
def test_the_table_of_a_real_configuration(name: str, mebibytes: float) -> None:
    found = state_bytes(name, smollm2())
    assert found.total / 2**20 == pytest.approx(mebibytes, abs=0.6)
    if name in ("muon", "galore"):
        assert found.embeddings / 2**20 == pytest.approx(216, abs=0.1)
        assert found.floor >= found.embeddings


def test_an_unknown_name_suggests_and_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="did you mean 'adamw'"):
        find_optimizer("adamv")
    with pytest.raises(RecipeError, match="no tensors"):
        build_optimizer("adamw", [])
    with pytest.raises(RecipeError, match="momentom"):
        build_optimizer("sgd", network().items(), momentom=0.9)
    monkeypatch.setitem(__import__("sys").modules, "lion_pytorch", None)
    with pytest.raises(MissingExtra, match=r"lion-pytorch.*featherweight\[optimizers\]"):
        build_optimizer("lion", network().items())


@given(rate=st.floats(1e-6, 1.0), points=st.integers(1, 9), factor=st.floats(1.1, 10.0))
def test_rates_are_spaced_evenly_around_the_middle(rate: float, points: int, factor: float) -> None:
    rates = spread(rate, points, factor)
    assert len(rates) == points
    assert math.isclose(math.prod(rates), rate**points, rel_tol=1e-6)
    assert all(math.isclose(b / a, factor, rel_tol=1e-6) for a, b in itertools.pairwise(rates))
