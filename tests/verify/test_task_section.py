"""Benchmark tasks question by question: non-inferiority, exact zeros for the parent, no pass on few questions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import DataError
from featherweight.measure.task_items import TaskItems, paired_items, reduced, resampled_gains
from featherweight.verify.gate import Verdict
from featherweight.verify.task_section import task_section


def items(parent: list[float], child: list[float], better: bool = True) -> TaskItems:
    return TaskItems("arithmetic", "acc", np.array(parent), np.array(child), better)


def verdict(found: TaskItems, margin: float = 0.02, same: bool = False) -> Verdict:
    return task_section([found], margin, same).checks[0].verdict


def test_the_parent_itself_passes_with_exact_zeros() -> None:
    section = task_section([items([1, 0, 1], [1, 0, 1])], 0.0, same=True)
    assert section.verdict is Verdict.PASS
    [score] = section.facts["scores"]
    assert (score["gain"], score["gain_interval"], score["lost"], score["gained"]) == (0, [0, 0], 0, 0)


def test_few_equal_scores_of_another_model_certify_nothing() -> None:
    section = task_section([items([1, 0, 1] * 4, [1, 0, 1] * 4)], 0.02)
    assert section.verdict is Verdict.CANNOT_TELL
    assert "is not excluded; 12 cases show a loss of 2.0%" in section.checks[0].reason
    assert verdict(items([0.5] * 12, [0.5] * 12)) is Verdict.CANNOT_TELL


def test_many_equal_scores_do() -> None:
    assert verdict(items([1, 0] * 200, [1, 0] * 200)) is Verdict.PASS


def test_a_clear_loss_fails_and_an_unclear_one_cannot_be_told() -> None:
    parent = [1.0] * 300
    assert verdict(items(parent, [0.0] * 60 + [1.0] * 240)) is Verdict.FAIL
    assert verdict(items(parent, [0.0] * 6 + [1.0] * 294)) is Verdict.CANNOT_TELL


def test_lower_is_better() -> None:
    assert verdict(items([0.1] * 300, [0.9] * 300, better=False)) is Verdict.FAIL
    assert verdict(items([0.9] * 300, [0.1] * 300, better=False)) is Verdict.PASS


def test_questions_are_paired() -> None:
    """Both models vary widely from question to question, and the child is one point worse on each."""
    spread = np.random.default_rng(0).random(100)
    found = TaskItems("t", "score", spread, spread - 0.01)
    assert resampled_gains(found.gains) == pytest.approx((-0.01, -0.01))
    assert verdict(found) is Verdict.PASS
    assert verdict(found, 0.005) is Verdict.FAIL


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapped_models_mirror_the_gains(pairs: list[tuple[bool, bool]]) -> None:
    one, other = ([float(each[index]) for each in pairs] for index in (0, 1))
    low, high = resampled_gains(items(one, other).gains)
    back = resampled_gains(items(other, one).gains)
    assert back == pytest.approx((-high, -low))
    assert low <= items(one, other).gains.mean() <= high


def harness(scores: list[float], mean: float, prompt: str = "p") -> dict[str, object]:
    samples = [
        {"doc_id": number, "filter": "none", "doc_hash": "d", "prompt_hash": prompt, "target_hash": "t", "acc": score}
        for number, score in enumerate(scores)
    ]
    return {
        "samples": {"arithmetic": samples[::-1]},
        "results": {"arithmetic": {"alias": "arithmetic", "acc,none": mean, "acc_stderr,none": 0.1}},
        "higher_is_better": {"arithmetic": {"acc": True}},
    }


def test_scores_are_read_in_the_order_of_the_questions() -> None:
    [found] = paired_items(reduced(harness([1, 0, 0, 1], 0.5)), reduced(harness([1, 1, 0, 1], 0.75)))
    assert (found.task, found.metric) == ("arithmetic", "acc")
    assert found.gains.tolist() == [0, 1, 0, 0]


def test_a_metric_over_the_whole_corpus_is_left_out_by_name() -> None:
    [found] = paired_items(reduced(harness([1, 0], 12.5)), reduced(harness([1, 0], 12.5)))
    [check] = task_section([found], 0.02).checks
    assert (check.verdict, check.reason) == (Verdict.CANNOT_TELL, "the metric is no mean over questions")


def test_other_questions_are_refused() -> None:
    with pytest.raises(DataError, match="task 'arithmetic': asked parent and child different questions"):
        paired_items(reduced(harness([1, 0], 0.5)), reduced(harness([1, 0], 0.5, "another")))
