"""Healing in a plan: where in a recipe, at which bytes, against what; and when there is nothing to heal."""

from __future__ import annotations

import dataclasses

import pytest

from featherweight.core.recipe import Recipe
from featherweight.core.technique import build
from featherweight.plan.candidates import Cut, expect
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.healing import Healing, heal_best, place
from featherweight.plan.planner import Plan
from featherweight.plan.search import Search
from featherweight.plan.study import Study

MINUTES = 0.02


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["mixed-precision", "gptq"], 2),
        (["depth", "mixed-precision", "gptq"], 2),
        (["width", "rtn"], 1),
        (["mixed-precision", "gptq", "depth"], 3),
        (["depth"], 1),
        (["rtn"], 1),
    ],
)
def test_where_it_heals(steps: list[str], expected: int) -> None:
    assert place(Recipe(tuple(build(name, {}) for name in steps))) == expected


def attempted(study: Study, evaluator: Evaluator, cut: Cut) -> Plan:
    """A plan with one measured candidate."""
    candidate = expect(study.prior, study.goal.memory or 0, cut, "gptq")
    assert candidate is not None
    search = Search(evaluator)
    search.attempt(candidate)
    return Plan(search.trials)


def healed(study: Study, evaluator: Evaluator, plan: Plan) -> Healing | None:
    evaluator.run.parent = study.parent
    return heal_best(dataclasses.replace(study, run=evaluator.run), evaluator, plan, MINUTES)


@pytest.mark.parametrize(
    ("cut", "names"),
    [
        (Cut(ffn=0.75), ["width", "mixed-precision", "heal", "gptq"]),
        (Cut(), ["mixed-precision", "gptq", "heal"]),
    ],
)
def test_the_same_bytes_with_and_without(study: Study, evaluator: Evaluator, cut: Cut, names: list[str]) -> None:
    plan = attempted(study, evaluator, cut)
    healing = healed(study, evaluator, plan)
    assert healing is not None
    assert [step.name for step in healing.healed.candidate.recipe] == names
    assert healing.plain.memory == healing.healed.memory
    assert plan.trials == [healing.plain, healing.healed]
    formats = [
        {name: entry.format for name, entry in evaluator.child(trial.candidate.recipe).entries.items()}
        for trial in plan.trials
    ]
    assert formats[0] == formats[1]


def test_what_misses_only_in_quality_is_healed(study: Study, evaluator: Evaluator) -> None:
    plan = attempted(study, evaluator, Cut())
    strict = dataclasses.replace(study, goal=dataclasses.replace(study.goal, quality=1.0))
    assert healed(strict, evaluator, plan) is not None
    small = dataclasses.replace(study, goal=dataclasses.replace(study.goal, memory=10))
    assert healed(small, evaluator, Plan(plan.trials[:1])) is None
