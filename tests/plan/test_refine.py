"""Refinement: an interrupted search proposes what an uninterrupted one does; the study lies in one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featherweight.core.errors import OutputError
from featherweight.core.recipe import Recipe
from featherweight.core.technique import build
from featherweight.plan.candidates import Candidate, Cut
from featherweight.plan.refine import refine

TRIALS = 5


@pytest.fixture
def best() -> Candidate:
    steps = (build("mixed-precision", {"memory": 100_000}), build("gptq", {}))
    return Candidate(Recipe(steps), Cut(), "gptq", 100_000, 0.0, 0.1)


def damage(candidate: Candidate) -> float:
    """Some smooth function of the settings."""
    mixed, gptq = candidate.recipe.steps
    favour = mixed.fields()["favour"]
    return float(abs(gptq.fields()["damping"] - 0.05) + sum(abs(value - 1.3) for value in favour.values()))


class Stopped(Exception):
    """Stands for a process that is killed."""


class Failing:
    """Evaluates, but for the last time allowed, when the process dies."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, candidate: Candidate) -> float:
        self.left -= 1
        if self.left < 0:
            raise Stopped
        return damage(candidate)


def recipes(found: list[Candidate]) -> list[str]:
    return [json.dumps(each.recipe.to_dict(), sort_keys=True) for each in found]


def test_the_first_is_the_candidate_itself(best: Candidate) -> None:
    found = refine(best, TRIALS, damage, 0, None)
    assert len(found) == TRIALS + 1
    assert found[0].recipe.digest == best.recipe.digest
    assert len(set(recipes(found))) == TRIALS + 1


def test_the_seed_decides(best: Candidate) -> None:
    one, same, other = (recipes(refine(best, TRIALS, damage, seed, None)) for seed in (0, 0, 1))
    assert one == same
    assert one[1:] != other[1:]


@pytest.mark.parametrize("calls", range(TRIALS + 1))
def test_killed_and_gone_on(best: Candidate, calls: int, tmp_path: Path) -> None:
    """Whichever trial the process died in."""
    whole = recipes(refine(best, TRIALS, damage, 3, None))
    with pytest.raises(Stopped):
        refine(best, TRIALS, Failing(calls), 3, tmp_path / "trials.db")
    evaluator = Failing(TRIALS + 1 - calls)
    assert recipes(refine(best, TRIALS, evaluator, 3, tmp_path / "trials.db")) == whole
    assert evaluator.left == 0  # what was finished was not evaluated again


def test_killed_twice(best: Candidate, tmp_path: Path) -> None:
    whole = recipes(refine(best, TRIALS, damage, 3, None))
    for calls in (0, 0, 2, 1):
        with pytest.raises(Stopped):
            refine(best, TRIALS, Failing(calls), 3, tmp_path / "trials.db")
    assert recipes(refine(best, TRIALS, damage, 3, tmp_path / "trials.db")) == whole


def test_finished_is_finished(best: Candidate, tmp_path: Path) -> None:
    whole = recipes(refine(best, TRIALS, damage, 3, tmp_path / "trials.db"))
    assert recipes(refine(best, TRIALS, Failing(0), 3, tmp_path / "trials.db")) == whole


def test_without_gptq_there_is_no_damping(best: Candidate) -> None:
    steps = (build("mixed-precision", {"memory": 100_000}), build("imatrix", {}))
    plain = Candidate(Recipe(steps), Cut(), "imatrix", 100_000, 0.0, 0.1)
    for candidate in refine(plain, 3, lambda each: 1.0, 0, None):
        assert candidate.recipe.steps[1] == steps[1]


def test_a_file_that_cannot_be_written_is_named(best: Candidate, tmp_path: Path) -> None:
    (tmp_path / "trials.db").mkdir()
    with pytest.raises(OutputError, match=r"trials.db: could not be written .*; free some space"):
        refine(best, 1, damage, 0, tmp_path / "trials.db")
