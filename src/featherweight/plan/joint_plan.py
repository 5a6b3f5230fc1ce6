"""A plan by search: the best few choices of a joint search (or of its control) as candidates that are run and measured.

What differs from the planner is where candidates come from; they are applied, measured against the parent, exported and
judged by the same code, and nothing that the search believed is trusted beyond that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from featherweight.core.errors import SearchError
from featherweight.core.importance import Order
from featherweight.core.lazy import torch
from featherweight.core.technique import Technique
from featherweight.measure.ordering import importance_order
from featherweight.plan.candidates import Candidate, Cut
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.expected import ExpectedCost, Limits, require_feasible
from featherweight.plan.joint_recipe import recipe_of
from featherweight.plan.joint_search import Effort, Found, Outcome, Task, joint_search, sequential_search
from featherweight.plan.joint_space import REFERENCE, Mode, Sizes, fit_space
from featherweight.plan.planner import Plan
from featherweight.plan.search import Search
from featherweight.plan.study import Study
from featherweight.train.bilevel import Turns
from featherweight.train.decisions import one_hot
from featherweight.train.next_token import mean_next_token_loss
from featherweight.train.space import Choice, Space

_TRIED = 3  # of the judged choices are made and measured
ROUNDING = "gptq"
FIT_TURNS = Turns(weight_steps=2, decision_steps=4, batch=2)  # a step of a real model takes seconds


def cost_of(study: Study, space: Space, order: Order) -> ExpectedCost:
    """What choices cost in the file that a study exports to."""
    wide = "F32" if study.exporter.runtime == "gguf" else "BF16"
    return ExpectedCost(study.parent, space, order, wide, "BF16", study.latency_model)


def check_space(study: Study, sizes: Sizes | None = None) -> None:
    """Refuses a space that the model does not have, or in which nothing is small enough; measures nothing.

    Raises:
        SearchError: with the reason.
    """
    space = fit_space(study.parent, study.exporter.runtime, sizes)
    if study.goal.memory is None:
        return
    anything = Order(range(study.parent.architecture.blocks), {}, {}, [])
    require_feasible(cost_of(study, space, anything), Limits(study.goal.memory - study.overhead))


@dataclass(frozen=True)
class Chosen(Cut):
    """The sizes of a choice, as what is cut."""

    sizes: tuple[Technique, ...] = ()
    label: str = "nothing cut"

    def steps(self) -> list[Technique]:
        return list(self.sizes)

    def __str__(self) -> str:
        return self.label


def make_searched_plan(
    study: Study, evaluator: Evaluator, mode: Mode, effort: Effort, sizes: Sizes | None = None
) -> Plan:
    """Searches within a study's limits, then makes and measures the best few choices.

    Corrections learn on the calibration rows, decisions on the selection rows; candidates are compared on the latter
    too, and what is reported of the winner is measured on rows that neither has seen.

    Args:
        study: the parent and its goal.
        evaluator: applies and measures recipes.
        mode: "joint", or its control "sequential".
        effort: what the search may spend.
        sizes: options instead of the usual ones.
    """
    parent, runtime = study.parent, study.exporter.runtime
    order = importance_order(parent, study.run)
    cost = cost_of(study, fit_space(parent, runtime, sizes), order)
    size = _file_size(study)
    limits = _reachable(study, cost, Limits(size - study.overhead, seconds=study.goal.latency))
    task = Task(parent, cost, limits, study.calibration.ids, study.selection.ids)
    if mode == "joint":
        outcome = joint_search(task, study.run, effort)
    else:
        outcome = sequential_search(task, study.run, effort, REFERENCE[runtime])
    search = Search(evaluator)
    search.climb(_candidates(task, outcome, size))
    return Plan(search.trials, tokens=evaluator.tokens_spent, search={"mode": mode, **outcome.to_dict()})


def _file_size(study: Study) -> int:
    """The largest file that may meet the goal."""
    goal = study.goal
    if goal.memory is None:
        return study.sizes()[0]
    overhead = study.resident_overhead
    return goal.memory if goal.resident is None or overhead is None else min(goal.memory, goal.resident - overhead)


def _reachable(study: Study, cost: ExpectedCost, limits: Limits) -> Limits:
    """Without the limit on decode time where nothing is expected to keep it: only measuring the file decides that."""
    if limits.seconds is None:
        return limits
    try:
        require_feasible(cost, limits)
    except SearchError as error:
        study.run.progress.say(str(error))
        return dataclasses.replace(limits, seconds=None)
    return limits


def _candidates(task: Task, outcome: Outcome, size: int) -> list[Candidate]:
    parent = _parent_nll(task)
    return [_candidate(task, found, size, max(found.nll - parent, 0.0)) for found in outcome.found[:_TRIED]]


def _candidate(task: Task, found: Found, size: int, loss: float) -> Candidate:
    recipe = recipe_of(task.model, task.space, task.cost.order, found.choice, ROUNDING)
    formats = {
        kind: round(float(each)) for kind, each in task.cost.by_format(one_hot(task.space, found.choice)).items()
    }
    cut = Chosen(sizes=tuple(step for step in recipe if step.name == "subnet"), label=_label(task, found.choice))
    return Candidate(recipe, cut, ROUNDING, size, loss, 0.0, formats)


def _label(task: Task, choice: Choice) -> str:
    """The sizes that are smaller than they could be, for people."""
    smaller = {
        name: option for name, option in choice.items() if name in ("blocks", "ffn", "groups", "head_dim", "hidden")
        and option != task.space.options[name][-1]
    }  # fmt: skip
    return ", ".join(f"{name} {option}" for name, option in smaller.items()) or "nothing cut"


def _parent_nll(task: Task) -> float:
    """Of the untouched parent on the validation rows."""
    module = task.model.module()
    losses = []
    with torch.inference_mode():
        for rows in task.validation.split(4):
            losses.append(mean_next_token_loss(module(rows[:, :-1], use_cache=False).logits, rows) * len(rows))
    return float(sum(losses) / len(task.validation))
