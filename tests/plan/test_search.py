"""The search: what it runs, what it rejects and why, what it never measures twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from featherweight.core.recipe import Recipe
from featherweight.core.technique import build
from featherweight.measure.quality import summarize
from featherweight.plan.candidates import Candidate, Cut, candidates, expect, rounded_first, smallest
from featherweight.plan.evaluate import Evaluator, surely_worse
from featherweight.plan.planner import make_plan
from featherweight.plan.search import Doubt, Search
from featherweight.plan.study import Study


@pytest.fixture
def found(study: Study) -> list[Candidate]:
    return candidates(study.prior, study.sizes()[:1])


def made_of(kind: str, kl: float = 0.0, cut_kl: float = 0.0) -> Candidate:
    """A candidate that rounds everything to one format, with what somebody expects of it."""
    recipe = Recipe((build("rtn", {"format": kind, "embedding": kind}),))
    return Candidate(recipe, Cut(), "imatrix", 0, cut_kl, kl)


class TestCandidates:
    def test_every_one_fits_and_the_least_damaging_comes_first(self, study: Study, found: list[Candidate]) -> None:
        assert [each.kl for each in found] == sorted(each.kl for each in found)
        assert len({each.recipe.digest for each in found}) == len(found) >= 6
        assert {each.memory for each in found} == {study.goal.memory}

    def test_expected_bytes_are_kept_by_the_file(
        self, study: Study, found: list[Candidate], evaluator: Evaluator
    ) -> None:
        for candidate in (found[0], next(each for each in found if each.cut.steps())):
            assert evaluator.memory(candidate.recipe) <= candidate.memory

    def test_below_the_smallest_there_is_none(self, study: Study) -> None:
        least = smallest(study.prior)
        assert candidates(study.prior, [least - 1]) == []
        assert candidates(study.prior, [least])

    def test_a_model_is_never_cut_to_nothing(self, study: Study) -> None:
        assert expect(study.prior, study.parent_bytes, Cut(drop=2), "gptq") is None

    @pytest.mark.parametrize("spare", [1.0, 1.02, 1.1, 1.5])
    def test_rounding_before_a_cut_can_be_applied_where_it_is_offered(
        self, study: Study, spare: float, evaluator: Evaluator
    ) -> None:
        """The smallest formats of the whole model may be too large for what its cut relative was given."""
        offered = []
        for cut in (Cut(drop=1), Cut(ffn=0.75), Cut(ffn=0.9)):
            candidate = expect(study.prior, int(spare * smallest(study.prior)), cut, "imatrix")
            swapped = None if candidate is None else rounded_first(study.prior, candidate)
            if candidate is not None and swapped is not None:
                assert evaluator.memory(swapped.recipe) > 0
                offered.append(cut)
                tight = dataclasses.replace(candidate, memory=study.prior.overhead + 1000)
                assert rounded_first(study.prior, tight) is None
        assert offered or spare < 1.1

    def test_doubt_never_expects_more(self, found: list[Candidate]) -> None:
        assert all(Doubt().least(each) <= each.kl for each in found)

    def test_what_was_measured_of_a_cut_replaces_the_doubt_about_it(
        self, found: list[Candidate], evaluator: Evaluator
    ) -> None:
        search, doubt = Search(evaluator), Doubt()
        cutting = next(each for each in found if each.cut.steps())
        trial = search.attempt(cutting)
        assert trial.quality is not None
        damage = trial.quality.kl - doubt.rounding * cutting.round_kl
        for each in found:
            expected = doubt.least(each)
            if each.cut == cutting.cut:
                expected = max(expected, damage + each.round_kl / doubt.rounding)
            assert doubt.least(each, search.trials) == pytest.approx(expected)

    def test_roundings_are_those_of_the_runtime(self, study: Study) -> None:
        size = [study.parent_bytes]
        assert {each.rounding for each in candidates(study.prior, size)} == {"gptq", "imatrix"}
        other = dataclasses.replace(study.prior, runtime="compressed-tensors")
        assert all(each.rounding in ("gptq", "imatrix", "awq") for each in candidates(other, size))


class TestClimb:
    def test_each_is_measured_or_rejected_with_a_reason(self, found: list[Candidate], evaluator: Evaluator) -> None:
        search = Search(evaluator)
        best = search.climb(found)
        assert best is not None
        assert [trial.candidate for trial in search.trials] == found
        measured = [trial.quality.kl for trial in search.trials if trial.status == "measured" and trial.quality]
        assert best.quality is not None
        assert best.quality.kl == min(measured)
        for trial in search.trials:
            assert trial.status in ("measured", "first look", "expected")
            assert trial.reason
            assert (trial.quality is None) == (trial.status == "expected")
            assert (trial.measured() is None) == (trial.status != "measured")

    def test_rejected_unrun(self, evaluator: Evaluator) -> None:
        """However generously its expected damage is corrected, the best is better; nothing is run for it."""
        search = Search(evaluator)
        best = search.attempt(made_of("Q8_0"))
        assert best.quality is not None
        spent = evaluator.tokens_spent
        trial = search.attempt(made_of("Q4_0", kl=1.31 * best.quality.kl), best)
        assert (trial.status, trial.quality) == ("expected", None)
        assert f"the best has {best.quality.kl:.3f}" in trial.reason
        assert evaluator.tokens_spent == spent

    def test_rejected_after_a_first_look(self, evaluator: Evaluator) -> None:
        search = Search(evaluator)
        best = search.attempt(made_of("Q8_0"))
        spent = evaluator.tokens_spent
        trial = search.attempt(made_of("Q4_0"), best)  # expected to cost nothing, and found to cost a lot
        assert trial.status == "first look"
        assert "surely worse than the best on the same" in trial.reason
        assert evaluator.tokens_spent - spent == evaluator.selection.rows(evaluator.probe_rows).count

    def test_what_may_be_better_is_measured_on_all_rows(self, evaluator: Evaluator) -> None:
        search = Search(evaluator)
        best = search.attempt(made_of("Q4_0"))
        trial = search.attempt(made_of("Q8_0"), best)
        assert trial.status == "measured"
        assert trial.quality is not None
        assert trial.quality.tokens == evaluator.selection.ids[:, 1:].numel()
        assert set(trial.domains) == {"prose", "code"}


class TestEvaluator:
    def test_the_first_look_is_part_of_the_whole(self, evaluator: Evaluator) -> None:
        recipe = made_of("Q4_0").recipe
        look, whole = evaluator.first_look(recipe), evaluator.full(recipe)
        assert len(evaluator.probe_rows) == 3
        assert evaluator.tokens_spent == evaluator.selection.count
        assert whole.tokens.ids.shape == evaluator.selection.ids.shape
        assert (whole.kl[:3] == look.kl).all()

    def test_nothing_is_run_twice(self, evaluator: Evaluator, again: Callable[[], Evaluator]) -> None:
        recipe = made_of("Q4_0").recipe
        first, size = evaluator.full(recipe), evaluator.memory(recipe)
        other = again()
        assert summarize(other.full(recipe)) == summarize(first)
        assert other.memory(recipe) == size
        assert (other.tokens_spent, other.run.store.made) == (0, 0)

    def test_surely_worse_is_never_mutual(self, evaluator: Evaluator) -> None:
        one, other = (evaluator.first_look(made_of(kind).recipe) for kind in ("Q4_0", "Q8_0"))
        assert surely_worse(one, other)
        assert not surely_worse(other, one)
        assert not surely_worse(one, one)


class TestPlan:
    def test_killed_and_gone_on(
        self, study: Study, evaluator: Evaluator, again: Callable[[], Evaluator], tmp_path: Path
    ) -> None:
        """The same trials with the same numbers, and no token is run twice."""
        plan = make_plan(study, evaluator, 1, tmp_path / "trials.db")
        after = make_plan(study, again(), 1, tmp_path / "trials.db")
        assert [trial.to_dict() for trial in after.trials] == [trial.to_dict() for trial in plan.trials]
        assert [pair.to_dict() for pair in after.orders] == [pair.to_dict() for pair in plan.orders]
        assert plan.tokens > 0
        assert after.tokens == 0
        assert len(plan.orders) == 1

    def test_without_measuring_only_the_best_expected_is_run(self, study: Study, evaluator: Evaluator) -> None:
        plan = make_plan(study, evaluator, 3, None, measure=False)
        [trial] = plan.trials
        assert trial.candidate == candidates(study.prior, study.sizes()[:1])[0]

    def test_quality_alone_asks_for_the_smallest_that_reaches_it(self, study: Study) -> None:
        goal = dataclasses.replace(study.goal, memory=None, quality=0.9)
        sizes = dataclasses.replace(study, goal=goal).sizes()
        below = [each for each in study.curve if each.memory < sizes[0]]
        assert sizes[0] < study.parent_bytes
        assert all(each.ratio - 0.015 < 0.9 for each in below)
