"""Healing inside a plan: the best candidate once more with a heal step, at the same bytes, measured on the same tokens.

A recipe that cuts and then rounds is healed before its last quantizer: formats are planned by then, so both rounded
files have the same formats and the same bytes. One that is rounded at its end is healed there, on its grid. The healed
candidate is one more measured trial; the choice between the two is the ordinary one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from featherweight.core.lazy import np
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Kind, build
from featherweight.measure.quality import by_domain, resampled_means, summarize
from featherweight.plan.choose import ranked
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.planner import Plan
from featherweight.plan.search import Trial
from featherweight.plan.study import Study
from featherweight.techniques.adapt.heal import Heal


@dataclass(frozen=True)
class Healing:
    """A candidate without and with healing.

    Attributes:
        plain, healed: both trials, measured on the same rows.
        difference: KL to the parent with healing minus that without it, nats a token, with its 95 % interval.
        found: what the heal step says of its held-back rows.
    """

    plain: Trial
    healed: Trial
    difference: float
    interval: tuple[float, float]
    found: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {
            "plain": self.plain.to_dict(), "healed": self.healed.to_dict(), "difference": self.difference,
            "interval": list(self.interval), "found": self.found,
        }  # fmt: skip


def heal_best(study: Study, evaluator: Evaluator, plan: Plan, minutes: float) -> Healing | None:
    """Heals the best measured candidate and adds the result to the plan's trials; None where there is no candidate.

    Args:
        study: the parent and its goal.
        evaluator: applies and measures.
        plan: what was tried; the healed trial joins it.
        minutes: to spend on training.
    """
    plain = _best(study, plan)
    if plain is None:
        return None
    recipe = healed_recipe(plain.candidate.recipe, evaluator, minutes)
    study.run.progress.say(f"healing for about {minutes:g} min: {recipe}")
    candidate = dataclasses.replace(plain.candidate, recipe=recipe, rounding=f"{plain.candidate.rounding}, healed")
    healed, without = evaluator.full(recipe), evaluator.full(plain.candidate.recipe)
    trial = Trial(
        candidate, "measured", f"the best one healed, measured on {healed.kl.size} tokens", evaluator.memory(recipe),
        summarize(healed), by_domain(healed), evaluator.seconds(recipe),
    )  # fmt: skip
    plan.trials.append(trial)
    plan.tokens = evaluator.tokens_spent
    change = (healed.kl.mean(1) - without.kl.mean(1)).astype(np.float64)
    low, high = np.quantile(resampled_means(change, healed.tokens, evaluator.run.seed), [0.025, 0.975])
    return Healing(plain, trial, float(change.mean()), (float(low), float(high)), _found(evaluator, recipe))


def _best(study: Study, plan: Plan) -> Trial | None:
    """The best one that meets the goal, or would if it were better: quality is what healing may buy back."""
    for goal in (study.goal, study.goal.without("quality")):
        order = ranked(plan.trials, goal, study.parent_bytes)
        if order:
            return order[0][0]
    return None


def healed_recipe(recipe: Recipe, evaluator: Evaluator, minutes: float) -> Recipe:
    """The recipe with a heal step of as many steps as take about `minutes`; the number is kept in the run's store."""
    position = place(recipe)
    before = Recipe(recipe.steps[:position])
    # Candidates prune no single weights: a zero on a grid is a weight that was rounded to it.
    heal = Heal(zeros="keep" if position < len(recipe) else "free")
    facts = {**evaluator.facts(before), "minutes": minutes, "heal": heal.fields()}
    steps = evaluator.run.store.json(
        "heal-steps", facts, lambda: heal.within(minutes, evaluator.child(before), evaluator.run).steps
    )
    fields = {**heal.model_dump(mode="json", exclude_defaults=True), "steps": steps}
    return Recipe((*before.steps, build(heal.name, fields), *recipe.steps[position:]))


def place(recipe: Recipe) -> int:
    """How many steps come before healing: all but the quantizer that a recipe which cuts ends with, else all."""
    kinds = [step.kind for step in recipe]
    cuts = any(kind in (Kind.PRUNE, Kind.RESTRUCTURE) for kind in kinds)
    return len(kinds) - 1 if cuts and kinds[-1] == Kind.QUANTIZE else len(kinds)


def _found(evaluator: Evaluator, recipe: Recipe) -> dict[str, Any]:
    applied = next(each for each in evaluator.steps(recipe) if each.content["technique"] == Heal.name)
    return dict(applied.content.get("notes", {}))
