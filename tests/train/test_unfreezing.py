"""Unfreezing: what trains when, exactly; the input bridge as a model that it is used on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import RecipeError
from featherweight.models.input_bridge import ChannelBridge, SensorModel, limb_leads
from featherweight.train.loop import Schedule, minimise
from featherweight.train.optimizers import build_optimizer
from featherweight.train.unfreezing import Stage, Unfreezing, ladder

NAMES = ["embed.weight", *(f"layers.{i}.up.weight" for i in range(4)), "norm.weight", "head.weight"]


def sensor(seed: int = 0, channels: int = 3) -> SensorModel:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    trunk = transformers.LlamaModel(config)
    del trunk.embed_tokens  # signals come in beside it
    return SensorModel(trunk, ChannelBridge(torch.eye(channels)), patch=4, classes=2)


def signals(rows: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Waves of two frequencies with noise, and which of the two."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 2
    waves = torch.sin(torch.arange(32) * (0.3 + 0.5 * labels[:, None]))[:, None].expand(-1, 3, -1)
    return waves + 0.1 * torch.randn(rows, 3, 32, generator=generator), labels


def trained(
    model: SensorModel, schedule: Unfreezing | None, steps: int, accumulate: int = 1, name: str = "adamw"
) -> torch.optim.Optimizer:
    torch.set_num_threads(1)
    inputs, labels = signals()
    named = dict(model.named_parameters())
    optimizer = build_optimizer(
        name, named.items(), 1e-2, weight_decay=0.1, factors=schedule.factors if schedule else None
    )  # fmt: skip

    def loss(_: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(inputs), labels)

    guarded = schedule.guard(named.items(), loss, accumulate) if schedule else loss
    minimise(named.values(), guarded, Schedule(steps, 1e-2), optimizer=optimizer, accumulate=accumulate)
    return optimizer


def values(model: SensorModel) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def test_the_ladder_goes_from_the_top_down() -> None:
    found = ladder(NAMES, every=10, stages=2, decay=2.0)
    assert [(stage.start, stage.factor, stage.names) for stage in found.stages] == [
        (0, 1.0, ("norm.weight", "head.weight")),
        (10, 0.5, ("layers.2.up.weight", "layers.3.up.weight")),
        (20, 0.25, ("layers.0.up.weight", "layers.1.up.weight")),
        (30, 0.125, ("embed.weight",)),
    ]


def test_an_adapter_without_a_head_starts_with_its_top_stage() -> None:
    names = [f"base_model.model.model.layers.{i}.q_proj.lora_A.default.weight" for i in range(3)]
    found = ladder(names, every=5, stages=None)
    assert [(stage.start, stage.names) for stage in found.stages] == [
        (0, (names[2],)),
        (5, (names[1],)),
        (10, (names[0],)),
    ]
    assert found.stages[0].factor == 1.0


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_what_is_frozen_has_no_gradient_no_state_and_does_not_move(name: str, accumulate: int) -> None:
    model = sensor()
    before = values(model)
    schedule = ladder(list(before), every=4, stages=2)
    optimizer = trained(model, Unfreezing(schedule.stages), steps=4, accumulate=accumulate, name=name)
    frozen = schedule.frozen(3)
    assert frozen
    for key, parameter in model.named_parameters():
        if key in frozen:
            assert torch.equal(parameter, before[key])
            assert parameter not in optimizer.state
            assert not parameter.requires_grad
        else:
            assert not torch.equal(parameter, before[key])
    trained(model, schedule, steps=9, accumulate=accumulate, name=name)
    assert not any(torch.equal(each, before[key]) for key, each in model.named_parameters())


def test_no_gradient_is_there_before_the_start() -> None:
    model, (inputs, labels) = sensor(), signals()
    named = dict(model.named_parameters())
    schedule = ladder(list(named), every=2, stages=4)
    seen: list[set[str]] = []

    def loss(_: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(inputs), labels)

    def look(_: int) -> None:
        seen.append({name for name, each in named.items() if each.grad is not None})

    minimise(named.values(), schedule.guard(named.items(), loss), Schedule(9, 1e-3), before_update=look)
    assert [set(named) - each for each in seen] == [set(schedule.frozen(step)) for step in range(9)]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_all_from_the_start_is_no_schedule_bit_for_bit(name: str) -> None:
    one, two = sensor(), sensor()
    names = [name for name, _ in one.named_parameters()]
    trained(one, ladder(names, every=0, decay=1.0), 6, name=name)
    trained(two, None, 6, name=name)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_resumed_training_freezes_what_it_would_have() -> None:
    model = sensor()
    named = dict(model.named_parameters())
    schedule = ladder(list(named), every=3, stages=4)
    schedule.guard(named.items(), lambda _: torch.zeros(()))(7)
    assert {name for name, each in named.items() if not each.requires_grad} == schedule.frozen(7)


@given(
    blocks=st.integers(1, 40), every=st.integers(0, 20), stages=st.one_of(st.none(), st.integers(1, 8)),
    decay=st.floats(1.0, 3.0),
)  # fmt: skip
def test_the_count_of_what_trains_only_grows(blocks: int, every: int, stages: int | None, decay: float) -> None:
    names = ["embed.weight", *(f"h.{i}.w" for i in range(blocks)), "head.weight"]
    schedule = ladder(names, every, stages, decay)
    assert sorted(name for stage in schedule.stages for name in stage.names) == sorted(names)
    sizes = {name: index + 1 for index, name in enumerate(names)}
    last = max(stage.start for stage in schedule.stages)
    counts = [schedule.trainable(step, sizes) for step in range(last + 1)]
    assert counts == sorted(counts)
    assert counts[-1] == sum(sizes.values())
    # The declared ladder: at each start, exactly that stage's parameters join.
    for stage in schedule.stages:
        if stage.start:
            joined = counts[stage.start] - counts[stage.start - 1]
            assert joined == sum(sizes[name] for name in stage.names)


def test_bad_schedules_are_refused() -> None:
    schedule = ladder(NAMES, every=10, stages=2)
    schedule.check(31, NAMES)
    with pytest.raises(RecipeError, match="never comes: there are 30 steps"):
        schedule.check(30, NAMES)
    with pytest.raises(RecipeError, match="is no trained tensor"):
        schedule.check(31, NAMES[1:])
    with pytest.raises(RecipeError, match="nothing to train at step 0"):
        Unfreezing((Stage(1, 1.0, ("a",)),)).check(5, ["a"])
    with pytest.raises(RecipeError, match="is in two stages"):
        Unfreezing((Stage(0, 1.0, ("a",)), Stage(1, 1.0, ("a",))))
    with pytest.raises(RecipeError, match="negative start"):
        Unfreezing((Stage(-1, 1.0, ("a",)),))
    with pytest.raises(RecipeError, match="no numbered blocks"):
        ladder(["head.weight"], every=1)
    with pytest.raises(RecipeError, match="makes no schedule"):
        ladder(NAMES, every=-1)


def test_a_bridge_computes_what_is_known_until_it_learns() -> None:
    leads = torch.randn(5, 2, 40, generator=torch.Generator().manual_seed(0))
    one, two = leads[:, 0], leads[:, 1]
    expected = torch.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2], 1)
    bridge = ChannelBridge(limb_leads())
    assert torch.allclose(bridge(leads), expected, atol=1e-6)
    assert bridge.strayed(range(6)) == 0.0
    with torch.no_grad():
        bridge.change[0] += 1.0
    assert bridge.strayed([1, 2]) == 0.0
    assert bridge.strayed([0]) == 1.0


def test_an_identity_bridge_is_no_bridge() -> None:
    model, (inputs, _) = sensor(), signals()
    expected = model(inputs)
    model.bridge = torch.nn.Identity()  # type: ignore[assignment]
    assert torch.equal(model(inputs), expected)


def test_a_language_models_trunk_learns_signals_through_the_bridge() -> None:
    model, (inputs, labels) = sensor(), signals()
    names = [name for name, _ in model.named_parameters()]
    trained(model, ladder(names, every=10, stages=2, decay=1.0), 40)
    with torch.no_grad():
        assert (model(inputs).argmax(1) == labels).float().mean() > 0.9


def test_a_window_that_is_no_whole_number_of_patches() -> None:
    with pytest.raises(RecipeError, match="30 samples: is no whole number of patches of 4"):
        sensor()(torch.zeros(1, 3, 30))


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "unfreezing.md").read_text("utf-8")
    exec(page.split("```python\n")[1].split("```")[0], {})
