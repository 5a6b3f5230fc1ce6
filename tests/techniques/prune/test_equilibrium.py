"""The game on language models: the identity, what is removed, equal counts, controls, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from featherweight.core.errors import DataError, FormatError, RecipeError
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.parts import part_weights, parts
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.techniques.prune.equilibrium import Equilibrium
from featherweight.testing.tiny import tiny_model, tiny_run, tiny_tokens
from featherweight.train.game import Game
from featherweight.train.participation import Rules
from featherweight.train.players import PlayerLayer

QUICK: dict[str, Any] = {"steps": 12, "rate": 0.3, "smoothing": 0.5}


def logits(model: Model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.module()(ids, use_cache=False).logits


@pytest.fixture
def ids(tiny: Path) -> torch.Tensor:
    return tiny_tokens(tiny, rows=4, skip=20).ids


def test_the_neutral_setting_changes_nothing(any_architecture: Path) -> None:
    model = open_folder(any_architecture)
    assert Equilibrium.neutral().apply(model, Run()) is model


def test_parts_hold_every_weight_that_slicing_removes(any_architecture: Path) -> None:
    model = open_folder(any_architecture)
    for part in parts(model.architecture):
        held = part_weights(model.architecture, part, lambda module: model.tensor(model.architecture.linear(0, module)))
        assert held.shape[0] == part.count
        kept = {block: range(part.count - 1) for block in range(2)}
        plan = Keep(ffn=kept) if part.axis == "ffn" else Keep(groups=kept)
        if part.axis == "ffn" or model.config["model_type"] not in ("phi3", "qwen2"):  # biases are no weights
            assert model.parameters - slice_model(model, plan).parameters == 2 * held.shape[1]


def layer(model: Model, module: Any, part: Any, block: int = 0) -> PlayerLayer:
    reader = module.get_submodule(model.architecture.linear(block, part.reader).removesuffix(".weight"))

    def owned() -> torch.Tensor:
        name = model.architecture.linear
        return part_weights(model.architecture, part, lambda each: module.get_parameter(name(block, each)))

    return PlayerLayer("it", reader, part.count, part.width, owned)


@pytest.mark.parametrize(("axis", "rows"), [("ffn", "mlp.up_proj"), ("query", "self_attn.v_proj")])
def test_the_inner_product_is_the_share_times_its_slope(tiny: Path, ids: torch.Tensor, axis: str, rows: str) -> None:
    model = open_folder(tiny)
    module = model.module().double()
    [part] = [each for each in parts(model.architecture) if each.axis == axis]
    reader = module.get_parameter(model.architecture.linear(0, part.reader)).requires_grad_(True)
    producer = module.get_parameter(model.architecture.linear(0, rows)).requires_grad_(True)
    game = Game([layer(model, module, part)], Rules())
    shares = game.shares["it"]
    shares.data = torch.linspace(0.1, 1, part.count, dtype=torch.float64)
    with game.gated():
        module(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    expected = shares * shares.grad
    columns = (reader.grad * reader).sum(0).reshape(part.count, -1).sum(1)
    torch.testing.assert_close(columns, expected, rtol=1e-6, atol=1e-9)
    produced = (producer.grad * producer).reshape(part.count, -1).sum(1)
    torch.testing.assert_close(produced, expected, rtol=1e-6, atol=1e-9)


def test_whom_the_game_drove_out_leaves_no_trace(any_architecture: Path) -> None:
    """Logits of the gated model with the leavers at 0 are those of the sliced model with the shares folded in."""
    model = open_folder(any_architecture)
    run = tiny_run(any_architecture)
    outcome = Equilibrium(ffn=0.5, groups=1, fold=True, **QUICK).outcome(model, run)
    assert outcome.kept is not None
    assert outcome.shares is not None
    changed = {}
    for name, shares in outcome.shares.items():
        stays = torch.zeros(len(shares))
        stays[list(outcome.kept[name])] = 1
        weight = model.tensor(name)
        changed[name] = weight * (shares * stays).repeat_interleave(weight.shape[1] // len(shares))
    tokens = run.tokens("test").ids
    expected = logits(model.with_changes(changed), tokens)
    assert (logits(outcome.model, tokens) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert outcome.model.architecture.size("ffn") == 128
    assert outcome.model.architecture.kv_heads == 1
    assert len(outcome.losses) == 12
    assert 0 <= outcome.residual[1] <= outcome.residual[0] <= 1


def test_every_block_keeps_equally_many_and_stock_classes_load_it(tiny: Path, tmp_path: Path) -> None:
    run = tiny_run(tiny)
    pruned = Equilibrium(ffn=0.75, **QUICK).apply(open_folder(tiny), run)
    pruned.save(tmp_path / "saved")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert stock.config.intermediate_size == 192
    ids = run.tokens("test").ids
    with torch.inference_mode():
        assert torch.equal(stock(ids, use_cache=False).logits, logits(pruned, ids))


@pytest.mark.parametrize("price", [0.0, 1000.0])
def test_a_price_that_drives_out_nobody_or_everybody_still_gives_equal_counts(tiny: Path, price: float) -> None:
    said: list[str] = []

    class Listening(Progress):
        def say(self, message: str) -> None:
            said.append(message)

    run = tiny_run(tiny)
    run.progress = Listening()
    outcome = Equilibrium(ffn=0.5, price=price, steps=20, rate=0.1, floor=0.1).outcome(open_folder(tiny), run)
    assert outcome.kept is not None
    assert {len(each) for each in outcome.kept.values()} == {128}
    assert outcome.by_rank > 0
    assert f"rank decided on {outcome.by_rank} of 512 players" in said[-1]
    assert "best-response residual" in said[-1]


def test_shares_come_back_to_one_unless_folded(tiny: Path) -> None:
    model = open_folder(tiny)
    outcome = Equilibrium(ffn=0.5, **QUICK).outcome(model, tiny_run(tiny))
    assert outcome.kept is not None
    kept = dict(enumerate(outcome.kept.values()))
    assert outcome.model.fingerprint == slice_model(model, Keep(ffn=kept)).fingerprint


def test_trained_weights_move_and_the_given_model_does_not(tiny: Path) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    before = {name: model.tensor(name).clone() for name in model.entries}
    settings = {"ffn": 0.5, "learning_rate": 1e-2, **QUICK}
    trained = Equilibrium(weights="trained", **settings).outcome(model, run)
    frozen = Equilibrium(**settings).outcome(model, run)
    assert trained.losses[-1] < frozen.losses[-1]
    assert all(torch.equal(model.tensor(name), before[name]) for name in before)
    up, query = model.architecture.linear(0, "mlp.up_proj"), model.architecture.linear(0, "self_attn.q_proj")
    assert trained.kept is not None
    rows = list(trained.kept[model.architecture.linear(0, "mlp.down_proj")])
    assert not torch.equal(trained.model.tensor(up), model.tensor(up)[rows])
    assert torch.equal(trained.model.tensor(query), model.tensor(query))


def with_useless_channels(model: Model) -> Model:
    """The even channels of every block do nothing; of the odd ones the loss would like to have more."""
    changed = {}
    for block in range(model.architecture.blocks):
        name = model.architecture.linear(block, "mlp.down_proj")
        weight = 0.3 * model.tensor(name)
        weight[:, ::2] = 0
        changed[name] = weight
    return model.with_changes(changed)


@pytest.mark.parametrize("game", ["utility", "potential"])
def test_channels_that_do_nothing_lose(trained: Path, game: Any) -> None:
    model = with_useless_channels(open_folder(trained))
    run = tiny_run(trained, rows=16)
    outcome = Equilibrium(ffn=0.5, game=game, steps=40, rate=0.1).outcome(model, run)
    assert outcome.kept is not None
    useful = [sum(index % 2 for index in kept) for kept in outcome.kept.values()]
    assert min(useful) > 70  # 64 by chance
    assert sum(useful) > 0.7 * 256


def test_dead_channels_go_first(tiny: Path) -> None:
    model = open_folder(tiny)
    up = model.architecture.linear(1, "mlp.up_proj")
    weight = model.tensor(up)
    weight[:100] = 0
    outcome = Equilibrium(ffn=0.5, **QUICK).outcome(model.with_changes({up: weight}), tiny_run(tiny))
    assert outcome.kept is not None
    assert min(outcome.kept[model.architecture.linear(1, "mlp.down_proj")]) >= 100


@pytest.mark.parametrize("choose", ["magnitude", "random"])
def test_controls_drop_as_many_and_play_no_game(tiny: Path, choose: Any) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    outcome = Equilibrium(ffn=0.5, groups=1, choose=choose).outcome(model, run)
    assert outcome.model.architecture.sizes["ffn"] == 128
    assert outcome.shares is None
    assert outcome.kept is not None
    if choose == "magnitude":
        [ffn] = [each for each in parts(model.architecture) if each.axis == "ffn"]
        held = part_weights(model.architecture, ffn, lambda module: model.tensor(model.architecture.linear(0, module)))
        assert list(outcome.kept[model.architecture.linear(0, "mlp.down_proj")]) == sorted(
            held.square().sum(1).topk(128).indices.tolist()
        )


@pytest.mark.parametrize("name", ["Q4_0", "int4-g64"])
def test_rounded_models_stay_rounded(tiny: Path, name: str) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    model = model.with_changes({each: get(name).fit(model.tensor(each)) for each in model.architecture.linears()})
    pruned = Equilibrium(ffn=0.5, multiple=64, **QUICK).apply(model, run)
    assert {pruned.entries[each].format for each in pruned.architecture.linears()} == {name}


def test_what_cannot_be_is_refused_before_the_play(tiny: Path, models_folder: Path) -> None:
    model = open_folder(tiny)
    with pytest.raises(DataError, match="equilibrium: needs calibration text"):
        Equilibrium(ffn=0.5).apply(model, Run())
    down = model.architecture.linear(1, "mlp.down_proj")
    with pytest.raises(FormatError, match="multiple of 256"):
        Equilibrium(ffn=0.5).apply(model.with_changes({down: get("Q4_K").fit(model.tensor(down))}), tiny_run(tiny))
    eight = tiny_model(models_folder, num_attention_heads=8, num_key_value_heads=4)
    with pytest.raises(RecipeError, match=r"equilibrium\.groups = 3: of 4 groups .* \[1, 2, 4\]"):
        Equilibrium(groups=3).apply(open_folder(eight), tiny_run(eight))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": 1.5}, r"share up to 1\.0"),
        ({"game": "chess"}, "'utility' or 'potential'"),
        ({"benefit": "up"}, "'descent' or 'paper'"),
        ({"price": -1}, "greater than or equal to 0"),
        ({"ffn": 0}, "greater than 0"),
        ({"gamma": 1}, "unknown"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build("equilibrium", fields)
