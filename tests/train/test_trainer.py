"""The trainer: accumulation, resuming bit for bit, what a NaN and Ctrl-C leave behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featherweight.core.errors import ResumeError, TrainingError
from featherweight.core.examples import Example
from featherweight.core.packing import PackedRows
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.train.checkpoints import Course
from featherweight.train.loop import Schedule
from featherweight.train.next_token import next_token_loss
from featherweight.train.trainer import Hooks, Kept, Pace, Trainer

STEPS = 6


class Words(torch.nn.Module):
    """A bigram model with dropout, as small as a thing can be that `loss_of` reads."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(32, 32, generator=generator))
        self.frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
        self.dropout = torch.nn.Dropout(0.2)


def loss_of(module: Any, batch: Any) -> tuple[torch.Tensor, int]:
    logits = module.dropout(module.table[batch.ids[:, :-1]])
    targets = batch.targets
    total = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="sum", ignore_index=-100)
    return total, int((targets != -100).sum())


def some_rows() -> PackedRows:
    draw = np.random.default_rng(0)
    examples = [
        Example(draw.integers(0, 32, size).astype(np.int32), draw.random(size) < 0.6, f"line {number}")
        for number, size in enumerate(draw.integers(4, 16, 30), 1)
    ]
    return PackedRows([each for each in examples if each.trainable], 16)


def trainer(progress: Progress | None = None, parts: int = 1, **hooks: Any) -> Trainer:
    pace = Pace(Schedule(STEPS, 0.05, warmup=1), batch=4, parts=parts)
    return Trainer(Words(), some_rows(), pace, Run(progress=progress or Progress()), hooks=Hooks(loss_of, **hooks))


class Killed(Exception):
    """Stands for the end of the process."""


class KillsAt(Progress):
    """Does something when so many updates are done."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.left, self.act = step, act

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        def advance() -> None:
            self.left -= 1
            if self.left == 0:
                self.act()

        yield advance


def kill() -> None:
    raise Killed


@pytest.fixture(scope="module")
def straight() -> tuple[torch.Tensor, Course]:
    """What an uninterrupted training comes to."""
    whole = trainer()
    course = whole.train()
    return whole.module.table.detach(), course


def learnt(table: torch.Tensor) -> Words:
    module = Words()
    module.table.data.copy_(table)
    return module


def test_it_learns(straight: tuple[torch.Tensor, Course]) -> None:
    assert straight[1].steps == STEPS
    rows = some_rows()
    with torch.no_grad():
        before, after = (
            loss_of(module.eval(), rows.batch(range(len(rows))))[0] for module in (Words(), learnt(straight[0]))
        )
    assert after < 0.99 * before
    assert torch.equal(trainer().module.frozen, torch.zeros(3))


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
def test_parts_of_an_update_make_one_big_batch(parts: int) -> None:
    one, many = trainer(), trainer(parts=parts)
    for each in (one, many):
        each.module.dropout.p = 0.0
        each.train()
    torch.testing.assert_close(many.module.table, one.module.table, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_any_step_it_goes_on_bit_for_bit(
    tmp_path: Path, step: int, every: int, straight: tuple[torch.Tensor, Course]
) -> None:
    path = tmp_path / "training.pt"
    with pytest.raises(Killed):
        trainer(KillsAt(step, kill)).train(Kept(path, every))
    resumed = trainer()
    course = resumed.train(Kept(path, every, resume=True))
    assert torch.equal(resumed.module.table, straight[0])
    assert course.losses == straight[1].losses


def test_ctrl_c_ends_after_the_update_and_can_be_resumed(tmp_path: Path, straight: tuple[torch.Tensor, Course]) -> None:
    path = tmp_path / "training.pt"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer(KillsAt(2, lambda: os.kill(os.getpid(), signal.SIGINT))).train(Kept(path, every=100))
    assert signal.getsignal(signal.SIGINT) is before
    assert len(torch.load(path, weights_only=True)["losses"]) in (2, 3)
    resumed = trainer()
    resumed.train(Kept(path, resume=True))
    assert torch.equal(resumed.module.table, straight[0])


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_loss_that_is_not_a_number_names_the_batch_and_keeps_the_last_good_state(tmp_path: Path, kind: str) -> None:
    calls: list[list[int]] = []

    def spoilt(module: Any, batch: Any) -> tuple[torch.Tensor, int]:
        calls.append(batch.ids.tolist())
        total, count = loss_of(module, batch)
        if len(calls) == 4:
            total = total * float("nan") if kind == "loss" else total + (0 * module.table).sum().sqrt()
        return total, count

    path = tmp_path / "training.pt"
    broken = Trainer(Words(), rows := some_rows(), Pace(Schedule(STEPS, 0.05, warmup=1), 4), Run(), hooks=Hooks(spoilt))
    with pytest.raises(TrainingError, match=r"update 4 \(line .*the state after 3 updates is kept") as raised:
        broken.train(Kept(path))
    assert rows.where(broken.order(3))[:60] in str(raised.value)
    state = torch.load(path, weights_only=True)
    assert len(state["losses"]) == 3
    assert torch.equal(state["parameters"]["table"], broken.module.table)
    assert state["parameters"]["table"].isfinite().all()


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    trainer().train(Kept(path, facts={"data": "one"}))
    with pytest.raises(ResumeError, match="trained with data = one, now two"):
        trainer().train(Kept(path, resume=True, facts={"data": "two"}))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ResumeError, match="cannot be read"):
        trainer().train(Kept(path, resume=True))


def test_an_early_stop_and_the_held_out_rows_are_watched(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    hooks = {"stop": lambda step, loss: step == 2, "watch": lambda: 7.0, "watch_at": frozenset({0, 2, STEPS})}
    course = trainer(**hooks).train(Kept(path))
    assert course.steps == 3
    assert course.held_out == {0: 7.0, 2: 7.0}
    again = trainer(**hooks).train(Kept(path, resume=True))
    assert again == course


def test_nothing_trainable() -> None:
    with pytest.raises(TrainingError, match="nothing of the model is trainable"):
        Trainer(torch.nn.Linear(2, 2).requires_grad_(False), some_rows(), Pace(Schedule(1, 1.0)), Run())


def test_a_batch_without_labels_gives_zero(tiny: Path) -> None:
    from featherweight.core.source import open_folder

    rows = PackedRows([Example(np.arange(5, dtype=np.int32), np.zeros(5, dtype=np.bool_), "x")], 8)
    total, count = next_token_loss(open_folder(tiny).module(), rows.batch([0]))
    assert (float(total), count) == (0.0, 0)
