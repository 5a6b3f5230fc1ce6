"""Distillation: the loss against the naive one, its gradient, its memory; the best state is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.testing.tiny import tiny_tokens
from featherweight.train import distill as module
from featherweight.train.distill import Objective, Outcome, Training, distill, divergence, mismatch
from featherweight.train.loop import Schedule
from featherweight.train.student import Student, Trainable
from featherweight.train.teacher import Teacher


def naive(student: torch.Tensor, head: torch.Tensor, teacher: torch.Tensor, teacher_head: torch.Tensor) -> torch.Tensor:
    """Mean KL with all logits at once."""
    q, p = (student @ head.T).log_softmax(-1), (teacher @ teacher_head.T).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


@pytest.fixture
def drawn() -> tuple[torch.Tensor, ...]:
    """Hidden states and heads of a student and of a wider teacher, float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 8), (30, 8), (3, 5, 12), (30, 12)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("chunk", [1, 4, 15, 512])
def test_the_divergence_and_its_gradient(drawn: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    student, *rest = drawn
    one, other = student.clone().requires_grad_(), student.clone().requires_grad_()
    found, expected = divergence(one, *rest), naive(other, *rest)
    torch.testing.assert_close(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_nothing_to_learn_from_oneself(drawn: Any) -> None:
    student, head, *_ = drawn
    states = student.requires_grad_()
    loss = divergence(states, head, student.detach().clone(), head) + mismatch(states, student.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert not bool(states.grad.any())


def test_the_distance_of_hidden_states(drawn: Any) -> None:
    student, _, teacher, _ = drawn
    teacher = teacher[..., :8]
    shares = [
        float((a - b).norm() ** 2 / b.norm() ** 2)
        for a, b in zip(student.reshape(-1, 8), teacher.reshape(-1, 8), strict=True)
    ]
    assert float(mismatch(student, teacher)) == pytest.approx(sum(shares) / len(shares))
    assert float(mismatch(2 * teacher, teacher)) == pytest.approx(1)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation puts out."""

    elements = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_logits_are_there_for_a_few_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 16)
    student, teacher = (torch.randn(4, 100, 8) for _ in range(2))
    head = torch.randn(300, 8)
    with Largest() as seen:
        divergence(student.requires_grad_(), head, teacher, head).backward()
    assert seen.elements == 16 * 300


@pytest.fixture(scope="module")
def parent(trained: Path) -> Model:
    return open_folder(trained)


@pytest.fixture(scope="module")
def child(parent: Model) -> Model:
    return build("rtn", {"format": "int2-g32"}).apply(parent, Run())


def objective(parent: Model, folder: Path, hidden: float = 0.1) -> Objective:
    tokens = tiny_tokens(folder, rows=6, length=32)
    return Objective(tokens, Teacher.of(parent, tokens.ids, {0: 0, 1: 1}, Run()), hidden)


def test_a_students_loss_is_the_sum_of_its_parts(parent: Model, child: Model, trained: Path) -> None:
    student, full = Student(child, Trainable(None), Run()), objective(parent, trained)
    rows = [4, 1]
    total, plain = (float(each.loss(student, rows)) for each in (full, objective(parent, trained, hidden=0)))
    with torch.no_grad():
        _, after = student.states(full.tokens.ids[rows], [0, 1])
        extra = [float(mismatch(after[block], full.teacher.after[block][rows])) for block in (0, 1)]
    assert total == pytest.approx(plain + 0.1 * sum(extra) / 2, rel=1e-5)
    assert total > plain > 0


def test_a_student_that_is_its_parent_has_nothing_to_learn(parent: Model, trained: Path) -> None:
    """But for the order of sums: the parent was read with all rows at once."""
    student = Student(parent, Trainable(None), Run())
    weights = [each.requires_grad_() for each in student.trained()["plain"]]
    loss = objective(parent, trained).loss(student, [0, 1])
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6
    assert max(float(each.grad.abs().max()) for each in weights if each.grad is not None) < 1e-5


RATES = {"plain": 1e-3, "grid": 0.05, "vectors": 1e-3}


def trained_to(child: Model, parent: Model, folder: Path, judge: Callable[[Model], float], **changes: Any) -> Outcome:
    training = Training(
        **{"schedule": Schedule(12, 1.0), "rates": RATES, "batch": 2, "checks": 4, "patience": 2} | changes
    )
    student = Student(child, Trainable(None), Run())
    return distill(student, objective(parent, folder), training, judge, torch.Generator().manual_seed(0))


def test_the_best_state_is_kept(parent: Model, child: Model, trained: Path) -> None:
    damages, models = iter([5.0, 6.0, 3.0, 4.0, 3.5, 3.2, 3.1]), []

    def judge(model: Model) -> float:
        models.append(model)
        return next(damages)

    outcome = trained_to(child, parent, trained, judge)
    assert (outcome.before, outcome.after, outcome.best, outcome.steps) == (5.0, 3.0, 6, 12)
    assert outcome.model is models[2]
    assert outcome.stopped == ""


def test_a_share_of_the_change_may_be_best(parent: Model, child: Model, trained: Path) -> None:
    damages, models = iter([5.0, 6.0, 5.5, 5.2, 5.1, 4.0, 4.5]), []

    def judge(model: Model) -> float:
        models.append(model)
        return next(damages)

    outcome = trained_to(child, parent, trained, judge, rates={**RATES, "grid": 0.2}, patience=9)
    assert (outcome.after, outcome.best, outcome.share, outcome.steps) == (4.0, 12, 0.5, 12)
    name = "model.norm.weight"
    half, whole, before = (model.tensor(name) for model in (models[5], models[4], child))
    torch.testing.assert_close(half, (whole + before) / 2)
    codes = [
        get("int2-g32").codes(model.stored(child.architecture.linears()[0])) for model in (child, models[5], models[4])
    ]
    assert 0 < int((codes[0] != codes[1]).sum()) < int((codes[0] != codes[2]).sum())


def test_what_was_better_before_is_given_back(parent: Model, child: Model, trained: Path) -> None:
    outcome = trained_to(child, parent, trained, lambda model: 0.0 if model is child else 1.0)
    assert outcome.model is child
    assert (outcome.best, outcome.steps) == (0, 6)
    assert outcome.stopped == "2 checks in a row found nothing better"


def test_a_loss_that_is_not_a_number_gives_back_the_best(parent: Model, child: Model, trained: Path) -> None:
    right = objective(parent, trained)
    teacher = Teacher(right.teacher.head, right.teacher.final * float("nan"), {})
    student, training = Student(child, Trainable(None), Run()), Training(Schedule(12, 1.0), RATES, 2, 4, 2)
    wrong = Objective(right.tokens, teacher, 0.0)
    outcome = distill(student, wrong, training, lambda model: 1.0, torch.Generator().manual_seed(0))
    assert outcome.model is child
    assert "the loss is nan" in outcome.stopped


def test_every_kind_learns_at_its_own_rate(parent: Model, child: Model, trained: Path) -> None:
    frozen = {"plain": 0.0, "grid": 0.0, "vectors": 0.01}
    outcome = trained_to(child, parent, trained, lambda model: 1.0 if model is child else 0.5, rates=frozen)
    changed = [name for name, entry in outcome.model.entries.items() if child.entries[name] is not entry]
    assert changed
    assert all(len(child.entries[name].shape) == 1 for name in changed)
