"""The search on a tiny trained model: what it hands on, its control, its limits, and fit with it."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.budget import Budget
from featherweight.core.errors import RecipeError, SearchError
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import techniques
from featherweight.measure.ordering import importance_order
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.expected import ExpectedCost, Limits
from featherweight.plan.frontier import hypervolume
from featherweight.plan.joint_plan import (
    check_space,
    make_searched_plan,
)  # fmt: skip
from featherweight.plan.joint_recipe import HEAL, formats_of, recipe_of
from featherweight.plan.joint_search import Effort, Outcome, Task, joint_search, sequential_search
from featherweight.plan.joint_space import default_sizes, fit_space, parse_sizes
from featherweight.plan.shortlist import neighbours, shortlist
from featherweight.plan.study import Study
from featherweight.testing.tiny import tiny_run, tiny_tokens
from featherweight.train.bilevel import Turns
from featherweight.train.decisions import Decisions
from featherweight.train.space import space_of
from featherweight.train.supernet import Supernet
from featherweight.verbs.fit import fit
from featherweight.verbs.prepare import Settings

QUICK = Effort(Turns(rounds=3, weight_steps=2, decision_steps=3, batch=4), judged=4, rank=2)


@pytest.fixture(scope="module")
def task(trained: Path) -> Task:
    model, run = open_folder(trained), tiny_run(trained)
    space = space_of(
        model, blocks=[1, 2], ffn=[128, 192, 256], formats=["int2-g32", "int4-g32", "int8-g32"], precision="part"
    )
    cost = ExpectedCost(model, space, importance_order(model, run), "BF16", "BF16")
    sizes = sorted(cost.bytes_of(choice) for choice in space.choices())
    rows = tiny_tokens(trained, rows=16, length=48, skip=40)
    return Task(model, cost, Limits(sizes[len(sizes) // 2]), run.calibration.ids, rows.ids)


@pytest.fixture
def run(trained: Path) -> Run:
    return tiny_run(trained)


def nll(model: Model, rows: torch.Tensor) -> float:
    with torch.inference_mode():
        logits = model.module()(rows[:, :-1], use_cache=False).logits.flatten(0, 1)
    return float(torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten()))


@pytest.mark.parametrize("search", ["joint", "sequential"])
def test_what_is_found_fits_and_is_what_its_recipe_makes(task: Task, run: Run, search: str) -> None:
    def searched() -> Outcome:
        return joint_search(task, run, QUICK) if search == "joint" else sequential_search(task, run, QUICK, "int4-g32")

    outcome = searched()
    assert outcome.found
    assert [each.nll for each in outcome.found] == sorted(each.nll for each in outcome.found)
    for found in outcome.found[:2]:
        child = task.model
        for step in recipe_of(task.model, task.space, task.cost.order, found.choice):
            child = step.apply(child, run)
        assert found.nbytes <= task.limits.most
        assert found.nll == pytest.approx(nll(child, task.validation), abs=1e-4)
    again = searched()
    assert again.to_dict() | {"seconds": 0} == outcome.to_dict() | {"seconds": 0}


def test_sequential_takes_formats_for_one_architecture(task: Task, run: Run) -> None:
    outcome = sequential_search(task, run, QUICK, "int4-g32")
    sizes = {tuple((name, each.choice[name]) for name in ("blocks", "ffn")) for each in outcome.found}
    assert len(sizes) == 1
    for name, option in next(iter(sizes)):
        assert option in task.space.options[name]


def test_the_smallest_is_found_where_only_it_fits(task: Task, run: Run) -> None:
    least = task.cost.smallest()
    tight = task.within(task.space, limits=Limits(task.cost.bytes_of(least)))
    for outcome in (joint_search(tight, run, QUICK), sequential_search(tight, run, QUICK, "int4-g32")):
        assert [dict(each.choice) for each in outcome.found] == [least]


def test_no_feasible_point(task: Task, run: Run) -> None:
    nothing = task.within(task.space, limits=Limits(task.cost.bytes_of(task.cost.smallest()) - 1))
    for search in (
        lambda: joint_search(nothing, run, QUICK),
        lambda: sequential_search(nothing, run, QUICK, "int4-g32"),
    ):
        with pytest.raises(SearchError, match="a search space of 54 choices: holds none within"):
            search()


def test_the_shortlist_is_the_likeliest_that_fit(task: Task) -> None:
    decisions = Decisions(task.space, torch.Generator().manual_seed(0))
    for name, logits in decisions.logits.items():
        decisions.logits[name] = torch.linspace(-1, 1, len(logits))
    every = sorted(task.space.choices(), key=lambda choice: -decisions.log_probability(choice))
    allowed = [choice for choice in every if task.cost.bytes_of(choice) <= task.limits.most]
    ours = [decisions.log_probability(choice) for choice in shortlist(task.cost, task.limits, decisions, 6)]
    assert ours == pytest.approx([decisions.log_probability(choice) for choice in allowed[:6]])


def test_a_search_leaves_no_supernet_behind(task: Task, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights in all formats: they must go when the search ends, not when the collector looks for cycles."""
    made: list[weakref.ref[Supernet]] = []
    build = Supernet.__init__

    def watched(self: Supernet, *given: Any, **named: Any) -> None:
        made.append(weakref.ref(self))
        build(self, *given, **named)

    monkeypatch.setattr(Supernet, "__init__", watched)
    gc.disable()
    try:
        joint_search(task, run, QUICK)
    finally:
        gc.enable()
    assert [each() for each in made] == [None]


def test_neighbours_fit_and_are_a_step_or_an_exchange_away(task: Task) -> None:
    decisions = Decisions(task.space, torch.Generator().manual_seed(0))
    for choice in itertools.islice(task.space.choices(), 0, None, 7):
        if not task.limits.allows(task.cost, choice):
            continue
        near = neighbours(task.cost, task.limits, decisions, choice)
        assert choice not in near
        for each in near:
            assert task.limits.allows(task.cost, each)
            sizes = [
                task.space.options[name].index(each[name]) - task.space.options[name].index(choice[name])
                for name in ("blocks", "ffn")
            ]
            assert sorted(sizes) in ([0, 0], [0, 1], [-1, 0], [-1, 1])


def test_the_next_choices_reach_what_single_likely_decisions_miss(task: Task) -> None:
    """All decisions for the shortest formats and the fewest channels: one more block is one exchange away."""
    decisions = Decisions(task.space, torch.Generator().manual_seed(0))
    one_block = {**task.cost.smallest(), "ffn": 256}
    assert any(each["blocks"] == 2 for each in neighbours(task.cost, task.limits, decisions, one_block))


def test_formats_of_large_spaces_are_solved_for(trained: Path, run: Run) -> None:
    model = open_folder(trained)
    space = space_of(model, ffn=[128, 256], formats=["int2-g32", "int4-g32", "int8-g32"], precision="layer")
    cost = ExpectedCost(model, space, importance_order(model, run), "BF16", "BF16")
    assert space.size > 4096
    largest = max(cost.bytes_of({**cost.smallest(), "ffn": size}) for size in (128, 256))
    big = Task(model, cost, Limits(int(1.4 * largest)), run.calibration.ids, run.calibration.ids)
    found = shortlist(cost, big.limits, Decisions(space, torch.Generator().manual_seed(0)), 4)
    assert {choice["ffn"] for choice in found} == {128, 256}
    assert all(cost.bytes_of(choice) <= big.limits.most for choice in found)


class TestRecipe:
    def test_formats_follow_the_blocks_that_stay(self, task: Task) -> None:
        space = space_of(task.model, blocks=[1, 2], formats=["int4-g32", "int8-g32"], precision="layer")
        order = task.cost.order
        kept = order.kept(1)[0]
        choice: dict[str, Any] = {name: each[0] for name, each in space.options.items()}
        choice |= {unit: "int8-g32" for unit in space.options if unit.startswith(f"format {kept}.mlp")}
        formats = formats_of(task.model, space, order, choice)
        assert {name: kind for name, kind in formats.items() if kind == "int8-g32"} == {
            f"model.layers.0.mlp.{part}.weight": "int8-g32" for part in ("gate_proj", "up_proj", "down_proj")
        }
        assert len(formats) == 7

    def test_it_survives_yaml_and_gives_every_matrix_its_format(self, task: Task, run: Run) -> None:
        kinds = itertools.cycle(["int2-g32", "int8-g32", "int4-g32"])
        space = space_of(task.model, formats=["int2-g32", "int4-g32", "int8-g32"], precision="layer")
        choice = {unit: next(kinds) for unit in space.options}
        recipe = recipe_of(task.model, space, task.cost.order, choice)
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe
        [step] = recipe
        child = step.apply(task.model, run)
        expected = formats_of(task.model, space, task.cost.order, choice)
        assert {name: child.entries[name].format for name in expected} == expected

    def test_training_is_a_step_by_name(self, task: Task) -> None:
        """Between cutting and rounding; the technique may come from another package."""
        choice = task.cost.smallest()
        if HEAL in techniques():
            recipe = recipe_of(task.model, task.space, task.cost.order, choice, heal={})
            assert [step.name for step in recipe] == ["subnet", HEAL, "rtn"]
        else:
            with pytest.raises(RecipeError, match="technique 'heal': is unknown"):
                recipe_of(task.model, task.space, task.cost.order, choice, heal={})

    def test_nothing_searched_is_nothing_done(self, task: Task) -> None:
        assert len(recipe_of(task.model, space_of(task.model), task.cost.order, {})) == 0


class TestFit:
    @pytest.mark.parametrize("mode", ["joint", "sequential"])
    def test_candidates_are_made_and_measured(self, study: Study, evaluator: Evaluator, mode: Any) -> None:
        plan = make_searched_plan(study, evaluator, mode, QUICK)
        measured = [trial for trial in plan.trials if trial.status == "measured"]
        assert measured
        assert all(trial.memory <= study.goal.memory for trial in plan.trials if trial.status != "expected")
        assert plan.search is not None
        assert plan.search["mode"] == mode
        assert all(step.name in ("subnet", "gptq") for trial in plan.trials for step in trial.candidate.recipe)

    def test_the_usual_space(self, study: Study) -> None:
        sizes = default_sizes(study.parent)
        assert sizes["blocks"][-1] == study.parent.architecture.blocks
        assert sizes["ffn"][-1] == study.parent.architecture.size("ffn")
        space = fit_space(study.parent, "gguf", {"hidden": [32, 64]})
        assert space.options["hidden"] == (32, 64)
        assert "format embedding" in space.options
        assert "format embedding" not in fit_space(study.parent, "compressed-tensors").options

    def test_a_whole_fit(self, trained: Path, small: Settings, cache: Path, tmp_path: Path) -> None:
        import dataclasses

        settings = dataclasses.replace(small, search="joint", search_rounds=2)
        result = fit(trained, Budget(memory=0.5), tmp_path / "run", settings=settings, cache=cache)
        assert result.met
        assert result.facts["search"]["mode"] == "joint"
        assert (tmp_path / "run" / "final").is_dir()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--search", "magic"], "--search 'magic': is unknown; use planner, joint, sequential."),
            (["--space", "ffn"], "--space 'ffn': is no list of sizes; write for example ffn=768,1152,1536."),
            (["--space", "ffn=12,x"], "--space 'ffn=12,x': is no list of sizes"),
            (
                ["--space", "depth=2"],
                "the search space's 'depth': is no decision; use blocks, hidden, ffn, groups, head_dim.",
            ),
            (["--space", "ffn=512"], "ffn of the search: offers 512, but the model has 256; use 1 to 256."),
            (["--space", "head_dim=3"], "it must be even; leave it out."),
            (["--space", "blocks=0"], "blocks of the search: offers 0"),
            (["--space", "ffn=33"], "do not store rows of [33] weights; offer widths that are multiples"),
            (["--memory", "50kB"], "holds none within"),
            (
                ["--search", "planner", "--space", "ffn=64"],
                "--space: says what to search, and --search is planner; add",
            ),
        ],
    )
    def test_one_sentence_and_nothing_written(
        self, command: Callable[..., Any], trained: Path, tmp_path: Path, options: list[str], reason: str
    ) -> None:
        search = [] if "--search" in options else ["--search", "joint"]
        budget = [] if "--memory" in options else ["--memory", "60%"]
        ended = command("fit", trained, *budget, "--out", tmp_path / "out", "--quiet", *search, *options)
        assert ended.status == 2, ended
        assert reason in ended.err
        assert not any(tmp_path.iterdir())

    def test_parsing(self) -> None:
        assert parse_sizes(["ffn=64, 128", "hidden=32"]) == {"ffn": [64, 128], "hidden": [32]}

    def test_a_space_is_checked_without_measuring(self, study: Study) -> None:
        made = study.run.store.made
        check_space(study)
        assert study.run.store.made == made


def test_hypervolume() -> None:
    assert hypervolume([(1.0, 1.0)], (3.0, 2.0)) == 2.0
    assert hypervolume([(1.0, 1.0), (2.0, 1.5)], (3.0, 2.0)) == 2.0  # a dominated point adds nothing
    assert hypervolume([(1.0, 1.0), (2.0, 0.5)], (3.0, 2.0)) == 2.5
    assert hypervolume([(4.0, 0.0), (0.0, 4.0)], (3.0, 2.0)) == 0.0
