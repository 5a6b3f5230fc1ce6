"""Layers of language models: equal models differ by nothing, damage shows exactly where it is."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.layer_models import QUICK, damaged, tiny_rows

from featherweight.core.checkpoint import Entry
from featherweight.core.data import TokenSet
from featherweight.core.errors import RecipeError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.measure.layer_compare import LayerComparison, compare_layers
from featherweight.measure.layer_walk import HEAD_MODULE, StateLog, look, look_first, modules_of
from featherweight.measure.layers import LayerSettings, fit_peepholes, macs
from featherweight.measure.noise import HALF_UNIT, shaken
from featherweight.measure.probe_rows import domain_rows
from featherweight.techniques.prune.depth import Depth
from featherweight.techniques.prune.width import Width
from featherweight.testing.tiny import tiny_model, tiny_run, tiny_tokens

BLOCK = "model.layers.{}."
# Where the damage of each linear shows first: at what the next module that is looked at reads, or at what it gives.
SHOWS = {
    "self_attn.q_proj": ("self_attn.o_proj", "input"), "self_attn.k_proj": ("self_attn.o_proj", "input"),
    "self_attn.v_proj": ("self_attn.o_proj", "input"), "self_attn.o_proj": ("self_attn.o_proj", "output"),
    "mlp.gate_proj": ("mlp.down_proj", "input"), "mlp.up_proj": ("mlp.down_proj", "input"),
    "mlp.down_proj": ("mlp.down_proj", "output"),
}  # fmt: skip


@pytest.fixture(scope="module")
def deep(models_folder: Path) -> Path:
    """A random Llama of four blocks."""
    return tiny_model(models_folder, num_hidden_layers=4)


def compared(folder: Path, *patterns: str, settings: LayerSettings = QUICK) -> LayerComparison:
    model = open_folder(folder)
    child = damaged(model, *patterns) if patterns else open_folder(folder)
    return compare_layers(model, child, tiny_rows(folder, 8), tiny_rows(folder, 4, 8), Run(), settings, draws=0)


Looker = Callable[[Model], LayerComparison]


@pytest.fixture(scope="module")
def looked(deep: Path) -> Looker:
    """Compares any child with the Llama of four blocks, which is fitted once."""
    model, fit, audit = open_folder(deep), tiny_rows(deep, 8), tiny_rows(deep, 4, 8)
    bases, first = look_first(model, fit, QUICK, Run())
    peepholes, log = fit_peepholes(first, bases, fit.targets, fit.names, QUICK, Run().generator), StateLog()
    parent = look(model, audit, bases, Run(), log=log)

    def compare(child: Model) -> LayerComparison:
        seen = look(child, audit, bases, Run(), reference=log)
        return LayerComparison(peepholes, parent, seen, audit.targets, audit.sample_units)

    return compare


def test_equal_models_differ_by_nothing(any_architecture: Path) -> None:
    found = compared(any_architecture)
    assert [place.side for place in found.places] == ["input", "output"] * 4 + ["input", "prediction"]
    for place in found.places:
        assert float(place.variation.max()) == 0
        assert float((place.parent.sum(1) - 1).abs().max()) < 1e-12
    assert list(found.child.states) == ["embedding", "block 0", "block 1", "final norm"]
    for state in found.child.states.values():
        assert state.relative is not None
        assert float(state.relative.max()) == 0
        assert state.local is None or float(state.local.max()) == 0


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("linear", SHOWS)
def test_damage_shows_exactly_from_where_it_is(deep: Path, looked: Looker, block: int, linear: str) -> None:
    found = looked(damaged(open_folder(deep), BLOCK.format(block) + linear + ".weight"))
    drift = [(place.module, place.side, float(place.variation.max())) for place in found.places]
    module, side = SHOWS[linear]
    first = [each[:2] for each in drift].index((BLOCK.format(block) + module, side))
    assert all(value == 0 for _, _, value in drift[:first])
    assert drift[first][2] > 0
    states = found.child.states
    for index in range(4):
        relative, local = states[f"block {index}"].relative, states[f"block {index}"].local
        assert relative is not None
        assert local is not None
        assert (float(relative.max()) > 0) == (index >= block)
        assert (float(local.max()) > 0) == (index == block)


def test_inputs_alone_are_blind_to_the_block_that_they_belong_to(deep: Path) -> None:
    """As published: what a block reads is untouched up to the damaged block, and changes at the next one."""
    settings = LayerSettings(("*.q_proj",), rank=8, clusters=6)
    found = compared(deep, "model.layers.1.*", settings=settings)
    read = [float(place.variation.max()) for place in found.places if place.side == "input"]
    assert read[:2] == [0, 0]
    assert read[2] > 0


@pytest.mark.parametrize(
    ("pattern", "place"), [("model.embed_tokens.weight", "embedding"), ("lm_head.weight", "prediction")]
)
def test_damage_outside_the_blocks_is_seen(deep: Path, looked: Looker, pattern: str, place: str) -> None:
    found = looked(damaged(open_folder(deep), pattern))
    embedded = found.child.states["embedding"].relative
    assert embedded is not None
    assert (float(embedded.max()) > 0) == (place == "embedding")
    drifted = [each.module for each in found.places if float(each.variation.max()) > 0]
    assert drifted[-1] == "prediction"
    assert (len(drifted) == 1) == (place == "prediction")


def test_parts_of_the_rows_change_nothing(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = open_folder(deep), tiny_rows(deep, 6)
    bases, whole = look_first(model, rows, QUICK, Run())
    monkeypatch.setattr("featherweight.measure.layer_walk._TOKENS", 64)
    parts = look(model, rows, bases, Run())
    for name, found in whole.inputs.items():
        assert torch.allclose(parts.inputs[name], found, atol=1e-4)


def test_corevectors_are_those_of_the_whole_module(deep: Path) -> None:
    """Streaming sees what hooks on the whole model see, at the positions that are looked at."""
    model, rows = open_folder(deep), tiny_rows(deep, 3)
    bases, seen = look_first(model, rows, QUICK, Run())
    module, read = model.module(), {}
    for name in bases:
        layer = module.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, inputs, name=name: read.update({name: inputs[0]}))
    with torch.no_grad():
        logits = module(input_ids=rows.ids).logits
    for name, basis in bases.items():
        expected = rows.pick(basis.of_inputs(module.get_submodule(name), read[name]))
        assert torch.allclose(seen.inputs[name], expected, atol=1e-4)
    assert rows.classes is not None
    assert seen.prediction is not None
    assert torch.allclose(seen.prediction, rows.classes.mass(rows.pick(logits).softmax(-1)), atol=1e-6)


def test_every_tensor_is_read_once_a_pass(deep: Path) -> None:
    """So a model that is larger than memory needs one block of it at a time."""
    model, reads = open_folder(deep), Counter[str]()

    def counted(name: str, entry: Entry) -> Entry:
        def load() -> torch.Tensor:
            reads[name] += 1
            return entry.load()

        return dataclasses.replace(entry, load=load)

    model = model.with_changes({name: counted(name, entry) for name, entry in model.entries.items()})
    rows = tiny_rows(deep, 4)
    bases, _ = look_first(model, rows, QUICK, Run())
    assert set(reads.values()) == {1}
    log = StateLog()
    look(model, rows, bases, Run(), log=log)
    look(model, rows, bases, Run(), reference=log)
    assert set(reads.values()) == {3}
    assert set(reads) == set(model.entries)


@pytest.mark.parametrize("positions", ["all", "last", "mean"])
def test_labels_of_rows(deep: Path, positions: str) -> None:
    tokens = tiny_tokens(deep, 8, 32)
    rows = domain_rows(_two_domains(tokens), positions)  # type: ignore[arg-type]
    model = open_folder(deep)
    found = compare_layers(model, damaged(model, "model.layers.2.*"), rows, rows, Run(), QUICK, draws=0)
    assert found.parent.prediction is None  # a language model says nothing about its text's domain
    assert [place.module for place in found.places][-1] == HEAD_MODULE
    drift = {(place.module, place.side): float(place.variation.max()) for place in found.places}
    assert all(value == 0 for (name, _), value in drift.items() if ".0." in name or ".1." in name)
    assert max(drift.values()) > 0


def _two_domains(tokens: TokenSet) -> TokenSet:
    return TokenSet(tokens.ids, ("one", "two") * (len(tokens.ids) // 2), tokens.documents)


def test_a_child_with_fewer_channels_is_compared_where_it_can_be(deep: Path) -> None:
    model = open_folder(deep)
    child = Width(ffn=0.5).apply(model, tiny_run(deep))
    found = compare_layers(model, child, tiny_rows(deep, 8), tiny_rows(deep, 4, 8), Run(), QUICK, draws=0)
    assert set(found.child.missing) == {f"model.layers.{index}.mlp.down_proj" for index in range(4)}
    assert all("its shape is" in why for why in found.child.missing.values())
    assert {place.module.split(".")[-1] for place in found.places} == {"o_proj", HEAD_MODULE, "prediction"}
    for state in found.child.states.values():
        assert state.relative is not None
        assert 0 < state.cka <= 1 + 1e-9


def test_a_child_with_fewer_blocks_is_compared_by_its_states(deep: Path) -> None:
    model = open_folder(deep)
    child = Depth(blocks=(1,)).apply(model, tiny_run(deep))
    rows = tiny_rows(deep, 6)
    bases, _ = look_first(model, rows, QUICK, Run())
    log = StateLog()
    look(model, rows, bases, Run(), log=log)
    found = look(child, rows, bases, Run(), reference=log)
    assert found.missing == {"all": "3 blocks, the parent has 4"}
    assert not found.inputs
    assert found.prediction is not None
    assert [name.split(" as ")[0] for name in found.states] == [
        "embedding", "block 0", "block 1", "block 2", "final norm",
    ]  # fmt: skip
    assert found.states["embedding"].cka == pytest.approx(1)


def test_each_block_of_a_shallower_parent_has_one_of_the_childs(deep: Path) -> None:
    child = open_folder(deep)
    model = Depth(blocks=(1,)).apply(child, tiny_run(deep))
    rows, log = tiny_rows(deep, 6), StateLog()
    bases, _ = look_first(model, rows, QUICK, Run())
    look(model, rows, bases, Run(), log=log)
    found = look(child, rows, bases, Run(), reference=log)
    assert found.missing == {"all": "4 blocks, the parent has 3"}
    matched = [name.split(" as ") for name in found.states if " as " in name]
    assert [parent for _, parent in matched] == ["block 0", "block 1", "block 2"]
    assert matched[0][0] == "block 0"
    assert found.states["block 0 as block 0"].cka == pytest.approx(1)


def test_modules_are_named_by_patterns(tiny: Path) -> None:
    model = open_folder(tiny)
    assert modules_of(model)[-1] == HEAD_MODULE
    assert modules_of(model, ("*.1.mlp.up_proj",)) == ["model.layers.1.mlp.up_proj"]
    with pytest.raises(RecipeError, match="none of the model's linears"):
        modules_of(model, ("*.mlp.upp_proj",))


def test_noise_is_a_model_of_its_own_that_is_nearly_the_same(tiny: Path) -> None:
    model = open_folder(tiny)
    one, again, other = shaken(model, 0), shaken(model, 0), shaken(model, 1)
    name = "model.layers.0.mlp.up_proj.weight"
    assert one.fingerprint == again.fingerprint != other.fingerprint
    change = (one.tensor(name) - model.tensor(name)).abs() / model.tensor(name).abs()
    assert 0.5 * HALF_UNIT < float(change.max()) <= 1.01 * HALF_UNIT
    assert torch.equal(one.tensor("model.norm.weight"), model.tensor("model.norm.weight"))


def test_what_looking_costs(tiny: Path) -> None:
    """q (inputs + 1) + 2 q k + k labels a module."""
    found = compared(tiny).peepholes
    costs = macs(found)
    down = next(name for name in costs if name.endswith("down_proj"))
    clusters = len(found.holes[down].clusters)
    assert costs[down] == 8 * 257 + 2 * 8 * clusters + clusters * len(found.names)
