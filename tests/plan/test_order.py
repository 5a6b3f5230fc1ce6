"""Order of steps: the rule's arithmetic, orders that cannot matter, what may not be swapped, the table shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from featherweight.core.errors import BudgetError
from featherweight.core.formats import get
from featherweight.core.formats.base import Packed
from featherweight.core.model import Model
from featherweight.core.receipt import read_ledger
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.sparsity import lowest
from featherweight.core.steps import apply_recipe
from featherweight.core.stream import head_weight, stream
from featherweight.core.technique import Kind, Paper, Technique, build
from featherweight.plan.curve import Curve, Measure, rounding
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.order import order_steps, propose, stages_of
from featherweight.plan.planner import explain_order
from featherweight.plan.study import Study
from featherweight.testing.tiny import tiny_tokens
from featherweight.verbs.plan import explain_order as ask

CURVE = Curve([(8.5, 0.001), (5.5, 0.02), (4.5, 0.1), (3.4, 0.5)])
MILD, STRONG = build("rtn", {"format": "Q8_0"}), build("rtn", {"format": "Q4_0"})
THIRD = build("magnitude", {"sparsity": 0.3})


STEPS = {"m": MILD, "s": STRONG, "t": THIRD}


def table(losses: Mapping[str, float]) -> Measure:
    """Losses above a parent of 2 nats, by recipe: "ms" is the mild step and then the strong one."""
    known = {Recipe(tuple(STEPS[each] for each in steps)).digest: 2.0 + loss for steps, loss in losses.items()}
    return lambda recipe: known[recipe.digest]


class TestCurve:
    def test_ratio_at_the_points_is_their_own(self) -> None:
        for bits, loss in CURVE.points:
            assert CURVE.ratio(loss) == pytest.approx(16 / bits)

    @given(st.floats(1e-6, 5), st.floats(1e-6, 5))
    def test_ratio_is_monotone(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        assert CURVE.ratio(low) <= CURVE.ratio(high) + 1e-9

    def test_unusable_points_are_left_out(self) -> None:
        assert Curve([(8.5, 0.001), (4.5, math.inf), (3.4, 0.5)]).ratio(0.5) == pytest.approx(16 / 3.4)

    def test_a_curve_that_is_not_monotone_says_so(self) -> None:
        assert CURVE.monotone
        assert not Curve([(8, 0.2), (4, 0.1), (2, 0.5)]).monotone

    def test_rounding_at_b_bits_is_at_its_own_ratio(self, trained: Path) -> None:
        model = open_folder(trained)
        measure = measuring(model)
        parent = measure(Recipe(()))
        widths = (4, 3, 2)  # above these this model loses nothing
        curve = Curve.measured(model, parent, measure, widths)
        assert curve.monotone
        for bits in widths:
            loss = measure(Recipe((rounding(model, bits),))) - parent
            assert curve.ratio(loss) == pytest.approx(16 / bits, abs=1e-9)


def measuring(model: Model) -> Measure:
    """NLL of what a recipe makes of a model, on a few rows."""
    ids = tiny_tokens(model.folder, skip=60).ids
    run = Run(calibration=tiny_tokens(model.folder))

    def measure(recipe: Recipe) -> float:
        child = apply_recipe(recipe, model, run, None)[-1].model if len(recipe) else model
        logits = stream(child, ids)[:, :-1] @ head_weight(child).T
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), ids[:, 1:].flatten()))

    return measure


class TestRule:
    def test_advantage_is_antisymmetric_and_gap_follows(self) -> None:
        measure = table({"m": 0.1, "s": 0.5, "ms": 0.7, "sm": 0.8})
        for steps in ((MILD, STRONG), (STRONG, MILD)):
            found = order_steps(Recipe(steps), 2.0, measure, CURVE)
            [pair] = found.pairs
            assert pair.loss_first == pytest.approx(0.1)  # weaker first
            assert pair.gap == pytest.approx(0.4)
            assert pair.advantage == pytest.approx(0.1)
            assert pair.to_dict()["better"] == "proposed"
            assert found.recipe(found.best).steps == (MILD, STRONG)
        losses = table({"m": 0.6, "s": 0.5, "ms": 0.7, "sm": 0.8})
        strong = order_steps(Recipe((MILD, STRONG)), 2.0, losses, CURVE)
        assert strong.pairs[0].advantage == pytest.approx(-0.1)  # the same two losses, the other way round
        assert strong.recipe(strong.proposed).steps == (STRONG, MILD)
        assert strong.recipe(strong.best).steps == (MILD, STRONG)

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_equal_steps_keep_their_order_and_have_no_advantage(self, count: int) -> None:
        found = order_steps(Recipe((MILD,) * count), 2.0, lambda recipe: 2.0 + 0.1 * len(recipe), CURVE, verify=True)
        assert found.proposed == found.best == tuple(range(count))
        assert all(pair.advantage == 0 == pair.gap for pair in found.pairs)

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=7))
    def test_the_rule_is_a_stable_sort(self, strengths: list[int]) -> None:
        stages = stages_of(Recipe((MILD,) * len(strengths)))
        assert propose(stages, strengths) == tuple(sorted(range(len(strengths)), key=strengths.__getitem__))

    def test_many_steps_are_ranked_and_not_verified(self) -> None:
        asked: list[Recipe] = []
        losses = table({"m": 0.1, "s": 0.5, "t": 0.3})

        def measure(recipe: Recipe) -> float:
            asked.append(recipe)
            return losses(recipe)

        found = order_steps(Recipe((STRONG, THIRD, MILD, THIRD)), 2.0, measure, CURVE)
        assert found.best == found.proposed == (2, 1, 3, 0)
        assert len(asked) == 3  # each different step once
        assert (found.pairs, found.measured) == ((), {})

    def test_three_steps_are_verified_in_every_likely_order(self) -> None:
        pairs = {one + other: 0.8 for one in "mst" for other in "mst"}
        orders = {"smt": 1.0, "mts": 1.0, "stm": 1.0, "tms": 1.0, "mst": 1.0, "tsm": 0.1}
        measure = table({"m": 0.1, "s": 0.5, "t": 0.3, **pairs, **orders, "tms": 0.9})
        found = order_steps(Recipe((STRONG, MILD, THIRD)), 2.0, measure, CURVE)
        assert found.proposed == (1, 2, 0)
        # As given, as proposed, reversed, neighbours swapped; "tsm" is none of them.
        assert set(found.measured) == {(0, 1, 2), (1, 2, 0), (0, 2, 1), (2, 1, 0), (1, 0, 2)}
        assert found.best == (2, 1, 0)
        assert len(found.pairs) == 2

    def test_without_a_difference_the_given_order_stays(self) -> None:
        measure = table({"m": 0.1, "s": 0.5, "ms": 0.7, "sm": 0.7})
        assert order_steps(Recipe((STRONG, MILD)), 2.0, measure, CURVE).best == (0, 1)


class _Step(Technique):
    """A step of a test; not in the registry."""

    kind: ClassVar[Kind] = Kind.PRUNE
    paper: ClassVar[Paper] = Paper("", "")
    label: str = Field("", description="tells two of them apart")

    def apply(self, model: Model, run: Run) -> Model:
        return model

    @classmethod
    def neutral(cls) -> _Step:
        return cls()


class Prune(_Step):
    """A pruner that knows nothing of rotations."""

    name: ClassVar[str] = "prune"


class AwarePrune(_Step):
    """A pruner that does."""

    name: ClassVar[str] = "aware-prune"
    rotation_aware: ClassVar[bool] = True


class Rotate(_Step):
    """Changes nothing by itself, so that the rule puts it first."""

    name: ClassVar[str] = "rotate"
    kind: ClassVar[Kind] = Kind.QUANTIZE
    rotates: ClassVar[bool] = True


class First(_Step):
    """Must not come after a pruner."""

    name: ClassVar[str] = "first"
    not_after: ClassVar[dict[str, str]] = {"prune": "it needs whole matrices"}


class Adapt(_Step):
    """An adapter."""

    name: ClassVar[str] = "adapt"
    kind: ClassVar[Kind] = Kind.ADAPT


class Share(_Step):
    """Shares parameters."""

    name: ClassVar[str] = "share"
    kind: ClassVar[Kind] = Kind.RESTRUCTURE


def by_name(losses: Mapping[str, float]) -> Measure:
    """Losses add up, whatever the order."""
    return lambda recipe: 2.0 + sum(losses[step.name] for step in recipe)


class TestWhatMayNotBeSwapped:
    def test_a_step_that_must_come_first_does(self) -> None:
        found = order_steps(Recipe((First(), Prune())), 2.0, by_name({"first": 0.5, "prune": 0.1}), CURVE)
        assert found.proposed == (0, 1)
        assert set(found.measured) == {(0, 1)}
        assert found.pairs == ()

    def test_a_plan_and_its_quantizer_move_together(self) -> None:
        recipe = Recipe(tuple(build(name, {}) for name in ("depth", "mixed-precision", "width", "gptq", "magnitude")))
        names = [stage.name for stage in stages_of(recipe)]
        assert names == ["depth", "mixed-precision + width + gptq", "magnitude"]
        wrapped = Recipe((build("faq", {"quantizer": "mixed-precision"}), build("depth", {}), build("faq", {})))
        assert [stage.name for stage in stages_of(wrapped)] == ["faq + depth + faq"]
        own = Recipe((build("faq", {"settings": {"format": "Q4_0"}}), build("gptq", {"format": "Q4_0"})))
        assert len(stages_of(own)) == 2

    def test_every_kind_of_step(self) -> None:
        losses = {"prune": 0.3, "adapt": 0.01, "share": 0.2, "rtn": 0.1}
        recipe = Recipe((Prune(), Share(), STRONG, Adapt()))
        found = order_steps(recipe, 2.0, by_name(losses), CURVE)
        assert found.named(found.proposed) == "adapt → rtn → share → prune"
        assert [found.ratios[index] for index in found.proposed] == sorted(found.ratios)
        assert {each["name"] for each in found.to_dict()["steps"]} == set(losses)

    def test_a_pruner_behind_a_rotation_is_warned_of(self) -> None:
        losses = {"rotate": 0.0, "prune": 0.3, "aware-prune": 0.3}
        given_well = order_steps(Recipe((Prune(), Rotate())), 2.0, by_name(losses), CURVE, verify=False)
        assert given_well.proposed == (1, 0)  # the trap: alone a rotation loses nothing
        [warning] = given_well.warnings
        assert warning.startswith("rotate rotates and comes before prune, which does not know of rotations")
        measured = order_steps(Recipe((Prune(), Rotate())), 2.0, by_name(losses), CURVE)
        assert measured.best == (0, 1)
        assert measured.warnings == []
        aware = order_steps(Recipe((Rotate(), AwarePrune())), 2.0, by_name(losses), CURVE)
        assert aware.warnings == []


class FixedMask(_Step):
    """Drops the weights that are smallest in a model that is fixed beforehand."""

    name: ClassVar[str] = "fixed-mask"
    masks: ClassVar[dict[str, torch.Tensor]] = {}

    def apply(self, model: Model, run: Run) -> Model:
        return model.with_changes({name: model.tensor(name) * mask for name, mask in self.masks.items()})


class FixedScale(_Step):
    """Symmetric 4-bit rounding to nearest in groups of 32, on scales that are fixed beforehand."""

    name: ClassVar[str] = "fixed-scale"
    kind: ClassVar[Kind] = Kind.QUANTIZE
    scales: ClassVar[dict[str, torch.Tensor]] = {}

    def apply(self, model: Model, run: Run) -> Model:
        rounded = {name: self._rounded(model.tensor(name), scale) for name, scale in self.scales.items()}
        return model.with_changes(rounded)

    @staticmethod
    def _rounded(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        groups = weight.reshape(weight.shape[0], -1, 32)
        return ((groups / scale).round().clamp(-7, 7) * scale).reshape(weight.shape)


class LargestIsScale(_Step):
    """Symmetric 8-bit rounding to nearest on Q8_0, whose scale is the largest weight of each 32."""

    name: ClassVar[str] = "largest-is-scale"
    kind: ClassVar[Kind] = Kind.QUANTIZE

    def apply(self, model: Model, run: Run) -> Model:
        changed: dict[str, torch.Tensor] = {}
        for name in FixedMask.masks:
            packed = get("Q8_0").fit(model.tensor(name))
            assert isinstance(packed, Packed)
            changed[name] = packed.dequantize()
        return model.with_changes(changed)


class TestOrdersThatDoNotMatter:
    @pytest.fixture
    def model(self, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
        model = open_folder(trained)
        names = model.architecture.linears()
        weights = {name: model.tensor(name) for name in names}
        # Half of each group of 32 goes, never its largest.
        masks = {
            name: ~lowest(each.abs().reshape(-1, 32), 16).reshape(each.shape) for name, each in weights.items()
        }  # fmt: skip
        scales = {
            name: each.abs().reshape(each.shape[0], -1, 32).amax(-1, keepdim=True) / 7 for name, each in weights.items()
        }
        monkeypatch.setattr(FixedMask, "masks", masks)
        monkeypatch.setattr(FixedScale, "scales", scales)
        return model

    def both(self, model: Model, one: Technique, other: Technique) -> tuple[Model, Model]:
        run = Run(calibration=tiny_tokens(model.folder))
        orders = (Recipe((one, other)), Recipe((other, one)))
        first, second = (apply_recipe(each, model, run, None)[-1].model for each in orders)
        return first, second

    def test_a_fixed_mask_and_fixed_scales_commute(self, model: Model) -> None:
        one, other = self.both(model, FixedMask(), FixedScale())
        assert one.fingerprint == other.fingerprint != model.fingerprint
        measure = measuring(model)
        found = order_steps(Recipe((FixedMask(), FixedScale())), measure(Recipe(())), measure, CURVE)
        assert abs(found.pairs[0].advantage) <= 1e-7

    def test_survivors_are_the_same_where_the_largest_survives(self, model: Model) -> None:
        one, other = self.both(model, FixedMask(), LargestIsScale())
        for name, mask in FixedMask.masks.items():
            assert torch.equal(one.tensor(name)[mask], other.tensor(name)[mask])

    def test_blocks_chosen_beforehand_commute_with_rounding(self, model: Model) -> None:
        steps = build("depth", {"blocks": [1]}), build("rtn", {"format": "int4-g64"})
        one, other = self.both(model, *steps)
        assert one.fingerprint == other.fingerprint
        measure = measuring(model)
        assert order_steps(Recipe(steps), measure(Recipe(())), measure, CURVE).pairs[0].advantage == 0

    def test_a_mask_chosen_again_does_not(self, model: Model) -> None:
        measure = measuring(model)
        recipe = Recipe((build("wanda", {"sparsity": 0.7}), build("rtn", {"format": "int3-g64"})))
        assert order_steps(recipe, measure(Recipe(())), measure, CURVE).pairs[0].advantage != 0


class TestOnAModel:
    def test_from_a_study(self, study: Study, evaluator: Evaluator) -> None:
        recipe = Recipe((build("rtn", {"format": "int3-g64"}), build("magnitude", {"sparsity": 0.7})))
        found = explain_order(study, evaluator, recipe)
        assert found.ratios[0] == pytest.approx(16 / 3)
        spent, made = evaluator.tokens_spent, evaluator.run.store.made
        assert spent > 0
        assert explain_order(study, evaluator, recipe) == found
        assert (evaluator.tokens_spent, evaluator.run.store.made) == (spent, made)  # curve and orders were kept

    def test_the_command(
        self, command: Callable[..., Any], unchanged: Any, trained: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("steps:\n- rtn: {format: int3-g64}\n- magnitude: {sparsity: 0.7}\n")
        text = small_text(tmp_path)
        with unchanged(tmp_path):
            ended = command("plan", trained, "--explain-order", "--recipe", recipe, "--quiet", *text)
        assert ended.status == 0, ended.err
        for word in ("loss alone", "C*", "whole order", "rtn → magnitude", "magnitude → rtn", "(measured)"):
            assert word in ended.out

    def test_the_receipt_of_a_fit(self, fitted: Any) -> None:
        export = read_ledger(fitted.folder / "ledger.jsonl")[-1].content
        assert export["order"]["pairs"] == fitted.facts["orders"]
        assert {"gap", "advantage", "ratio_first"} <= set(export["order"]["pairs"][0])

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--recipe", "none.yaml"), "--recipe none.yaml: is only of use with --explain-order"),
            (("--recipe", "none.yaml", "--explain-order"), "none.yaml: does not exist"),
            (("--recipe", "empty.yaml", "--explain-order"), "recipe empty.yaml: has no steps to order"),
        ],
    )
    def test_bad_input(
        self, command: Callable[..., Any], tiny: Path, tmp_path: Path, monkeypatch: Any, options: Any, says: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("empty.yaml").write_text("steps: []\n")
        ended = command("plan", tiny, *options, "--quiet", *small_text(tmp_path))
        assert ended.status == 2
        assert says in ended.err


def test_the_verb_wants_a_recipe_or_a_budget(tiny: Path) -> None:
    with pytest.raises(BudgetError, match="has neither a recipe nor a budget"):
        ask(tiny)


def small_text(folder: Path) -> tuple[str, Path]:
    """The option that gives a short text."""
    path = folder / "text.txt"
    path.write_text("\n".join(f"Line {each} says that {each * each} is a square." for each in range(4000)))
    return "--text", path
