"""The final choice: what is vetoed, what two candidates' order depends on, what is said when nothing fits."""

from __future__ import annotations

import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.recipe import Recipe
from featherweight.core.technique import build
from featherweight.measure.quality import Quality
from featherweight.plan.candidates import Candidate, Cut
from featherweight.plan.choose import criteria, explain_infeasible, frontier, ranked
from featherweight.plan.goal import Goal
from featherweight.plan.search import Trial
from featherweight.plan.study import Study

PARENT = 1000


def trial(memory: int, ratio: float, latency: float | None = None, status: str = "measured") -> Trial:
    """A trial with these numbers; its recipe is as unique as they are."""
    numbers = (memory, ratio, latency)
    step = build("gptq", {"damping": 1e-4 + zlib.crc32(repr(numbers).encode()) / 1e12})
    quality = Quality(ratio, (ratio, ratio), 0.1, (0.1, 0.1), 0.9, (0.9, 0.9), 10.0, 10.0 / ratio, 100, 5)
    candidate = Candidate(Recipe((step,)), Cut(), "gptq", memory, 0.0, 0.1)
    return Trial(candidate, status, "because", memory, None if status == "expected" else quality, {}, latency)


trials = st.builds(
    trial, st.integers(100, 1000), st.integers(20, 105).map(lambda percent: percent / 100),
    st.integers(1, 40).map(lambda each: each / 1000), st.sampled_from(["measured", "first look", "expected"]),
)  # fmt: skip
goals = st.builds(
    Goal, memory=st.none() | st.integers(100, 1000), quality=st.none() | st.sampled_from([0.3, 0.7, 0.9, 1.0]),
    latency=st.none() | st.sampled_from([0.01, 0.03]), resident=st.none() | st.just(500),
)  # fmt: skip


def order(found: list[Trial], goal: Goal) -> list[Trial]:
    return [each for each, _ in ranked(found, goal, PARENT)]


class TestRanked:
    @given(trials, trials, st.lists(trials, max_size=6), goals)
    def test_two_never_depend_on_a_third(self, one: Trial, other: Trial, rest: list[Trial], goal: Goal) -> None:
        alone = order([one, other], goal)
        among = [each for each in order([one, other, *rest], goal) if each is one or each is other]
        if one.candidate.name not in {each.candidate.name for each in (other, *rest)} and other not in rest:
            assert among == alone

    @given(st.lists(trials, max_size=8), goals)
    def test_only_what_was_measured_and_meets_the_goal(self, found: list[Trial], goal: Goal) -> None:
        for each, closeness in ranked(found, goal, PARENT):
            measured = each.measured()
            assert measured is not None
            assert goal.without("resident").misses(measured) == []
            assert 0 <= closeness <= 1

    def test_within_the_limits_the_better_one_wins(self) -> None:
        good, small = trial(900, 0.8), trial(600, 0.75)
        assert order([small, good], Goal(memory=900, quality=0.7)) == [good, small]
        assert order([good, small], Goal(quality=0.7)) == [small, good]  # what is left open is improved

    def test_one_byte_over_is_out(self) -> None:
        assert order([trial(501, 1.0)], Goal(memory=500)) == []

    def test_the_whole_interval_has_to_reach_the_floor(self) -> None:
        each = trial(400, 0.9)
        assert each.quality is not None
        each.quality = dataclasses.replace(each.quality, ratio_interval=(0.84, 0.96))
        assert order([each], Goal(quality=0.85)) == []

    def test_frames_of_a_goal_without_limits(self) -> None:
        names = [each.name for each in criteria(Goal(), PARENT)]
        assert names == ["quality", "memory"]
        assert [each.name for each in criteria(Goal(latency=0.03), PARENT)] == [*names, "latency"]


class TestFrontier:
    def test_what_nothing_beats(self) -> None:
        small, good, beaten, unrun = (
            trial(300, 0.7),
            trial(500, 0.95),
            trial(600, 0.9),
            trial(1, 1.0, status="expected"),
        )
        assert frontier([beaten, small, good, unrun]) == [small, good]


class TestInfeasible:
    def explained(self, study: Study, found: list[Trial], **limits: float) -> dict[str, object]:
        return explain_infeasible(dataclasses.replace(study, goal=Goal(**limits)), found)  # type: ignore[arg-type]

    def test_memory_binds(self, study: Study) -> None:
        found = [trial(study.parent_bytes // 2, 0.99), trial(study.parent_bytes // 3, 0.9)]
        why = self.explained(study, found, memory=1000, quality=0.8)
        assert why["binding"] == ["memory"]
        assert why["goal"] == {"memory": "at most 1.00 kB", "quality": "at least 80.0%"}
        assert "in its smallest format" in str(why["reachable"])

    def test_quality_binds(self, study: Study) -> None:
        size = study.parent_bytes // 2
        why = self.explained(study, [trial(size, 0.9)], memory=size, quality=1.0)
        assert why["binding"] == ["quality"]
        assert "90.0% within the memory limit (measured)" in str(why["reachable"])

    def test_both_bind(self, study: Study) -> None:
        why = self.explained(study, [trial(study.parent_bytes, 0.5, 0.05)], memory=1000, latency=0.01)
        assert why["binding"] == []
        assert "50.0 ms a token (measured)" in str(why["reachable"])

    def test_the_nearest_come_first(self, study: Study) -> None:
        size = study.parent_bytes // 2
        far, near, other = trial(size * 2, 0.9), trial(size + 1, 0.9), trial(size, 0.5)
        why = self.explained(study, [far, other, near, trial(1, 1.0, status="expected")], memory=size, quality=0.9)
        nearest = why["nearest"]
        assert isinstance(nearest, list)
        assert [each["name"] for each in nearest] == [each.candidate.name for each in (near, other, far)]
        assert [each["misses"] for each in nearest] == [["memory"], ["quality"], ["memory"]]

    def test_nothing_was_measured(self, study: Study) -> None:
        why = self.explained(study, [], memory=1000)
        assert why["nearest"] == []
        assert why["binding"] == ["memory"]


@pytest.mark.parametrize("limit", ["memory", "quality", "latency", "resident"])
def test_a_lifted_limit_is_not_missed(limit: str) -> None:
    goal = Goal(memory=1, quality=1.0, latency=1e-9, resident=1)
    measured = trial(900, 0.5, 0.02).measured()
    assert measured is not None
    assert limit in goal.misses(measured)
    assert limit not in goal.without(limit).misses(measured)
