"""Benchmark tasks: questions that any Python can make, and a run through lm-evaluation-harness where installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from featherweight.core.errors import DataError, MissingExtra
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.measure.task_items import task_items
from featherweight.measure.tasks import LOCAL, questions, run_tasks
from featherweight.testing import tiny_run


def test_questions_are_fair_and_repeatable() -> None:
    made = questions(100)
    assert len(made) == 100
    assert made == questions(100)
    assert made != questions(100, seed=1)
    for each in made:
        assert len(set(each["choices"])) == 4
        right = each["choices"][each["answer"]]
        assert right.lower() not in each["question"].lower()
    places = [each["answer"] for each in made]
    assert all(places.count(place) > 10 for place in range(4))


def test_without_the_extra(tiny: Path) -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match=r"featherweight\[eval\]"):
            run_tasks(open_folder(tiny), open_folder(tiny), [LOCAL])


def test_local_task_runs_offline(tiny: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra: pip install 'featherweight[eval]'")
    model = open_folder(tiny)
    child = build("rtn", {"format": "Q4_0"}).apply(model, tiny_run(tiny))
    scores = run_tasks(model, child, [LOCAL], limit=12)
    assert [(score.task, score.metric, score.items) for score in scores] == [(LOCAL, "acc", 12)]
    assert 0 <= scores[0].child <= 1
    same = run_tasks(model, model, [LOCAL], limit=12)[0]
    assert same.parent == same.child
    with pytest.raises(DataError, match="unknown"):
        run_tasks(model, model, ["helaswag"])


def test_scores_of_every_question(tiny: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra: pip install 'featherweight[eval]'")
    model, run = open_folder(tiny), tiny_run(tiny)
    child = build("rtn", {"format": "Q4_0"}).apply(model, run)
    [found] = task_items(model, child, [LOCAL], run, limit=12)
    [score] = run_tasks(model, child, [LOCAL], limit=12)
    assert (found.task, found.metric, len(found.parent)) == (LOCAL, "acc", 12)
    assert (found.parent.mean(), found.child.mean()) == (pytest.approx(score.parent), pytest.approx(score.child))
    assert run.store.made == 2
    [same] = task_items(model, model, [LOCAL], run, limit=12)
    assert not same.gains.any()
    assert run.store.made == 2
