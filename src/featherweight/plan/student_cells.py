"""Cells of language models: a skeleton of a parent recovers on some rows of text, and the parent's head reads it.

A task is a domain of the text; its score is the parent's perplexity over the student's on held-out rows, so 1 is as
good as the parent. Learning rates are chosen on the selection rows. The budget is a number of updates, or of
floating-point operations.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from featherweight.core.data import TokenSet
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.stream import head_weight, stream
from featherweight.plan.skeletons import Skeleton
from featherweight.train.cells import Cell, Trial, first_and_last, updates_within
from featherweight.train.flops import flops_of
from featherweight.train.head import Fitting
from featherweight.train.loop import Schedule, minimise, shuffled
from featherweight.train.next_token import next_token_losses
from featherweight.train.recovery import Lesson, Recovery
from featherweight.train.teacher import Teacher, spread
from featherweight.train.workloads import plain

_WARMUP = 0.1
_MATCHED = 4  # blocks whose hidden states are compared
_JUDGED = 4  # rows at a time


@dataclass(frozen=True)
class StudentCells:
    """Trains and judges students of one parent.

    Attributes:
        parent: the model that they were cut from.
        skeletons: by name.
        known: ways to recover, by name.
        text: rows of "calibration", "selection" and "held-out".
        fitting: updates, batch and weight decay; the learning rate is the cell's.
        flops: of a cell, instead of the number of updates.
        device: where students are trained.
    """

    parent: Model
    skeletons: Mapping[str, Skeleton]
    known: Mapping[str, Recovery]
    text: Mapping[str, TokenSet]
    fitting: Fitting = field(default_factory=lambda: Fitting(20, 5e-5, 0.0, 4))
    flops: int | None = None
    device: str = "cpu"

    @property
    def threads(self) -> None:
        """As many as there are."""

    @property
    def tasks(self) -> Sequence[str]:
        return list(dict.fromkeys(self.text["held-out"].domains))

    def facts(self) -> dict[str, Any]:
        return {
            "parent": self.parent.fingerprint,
            "skeletons": {name: [each.how, each.parameters] for name, each in self.skeletons.items()},
            "objectives": {name: each.model_dump(mode="json") for name, each in self.known.items()},
            "text": {name: rows.digest for name, rows in self.text.items()},
            "fitting": asdict(self.fitting), "flops": self.flops,
        }  # fmt: skip

    def train(self, cell: Cell, rate: float) -> Trial:
        skeleton, run = self.skeletons[cell.backbone], Run(seed=cell.seed, device=self.device)
        module = skeleton.module().to(self.device)
        steps, flops = 0, 0
        losses: list[float] = []
        if (recovery := self.known.get(cell.objective)) is not None:
            steps, each = self._steps(skeleton, recovery)
            flops = steps * each
            losses = self._recover(module, skeleton, recovery, cell, steps, rate, run)
        gains = {task: self._gains(module, "held-out", task) for task in self.tasks}
        scores = {task: math.exp(float(each.mean())) for task, each in gains.items()}
        chosen = [math.exp(float(self._gains(module, "selection", task).mean())) for task in self.tasks]
        # Rows whose mean is the score, to first order in their distance from the mean gain.
        rows = {task: tuple((scores[task] * (1 + each - each.mean())).tolist()) for task, each in gains.items()}
        validation = sum(chosen) / len(chosen)
        return Trial(scores, validation, skeleton.parameters, flops, steps, first_and_last(losses), rows=rows)

    def _recover(
        self, module: Any, skeleton: Skeleton, recovery: Recovery, cell: Cell, steps: int, rate: float, run: Run
    ) -> list[float]:
        """Trains a skeleton's module in place; returns the loss of every update."""
        order = torch.randperm(len(self.text["calibration"].ids), generator=run.generator("rows"))
        rows = order[: cell.rows].tolist() * -(-self.fitting.batch // cell.rows)  # every update costs the same
        batch_of = shuffled(len(rows), self.fitting.batch, run.generator("order"))
        generator, extra = run.generator("recovery"), self._extra(recovery)

        def loss(step: int) -> torch.Tensor:
            lesson = self._lesson(skeleton, [rows[each] for each in batch_of(step)])
            return recovery.loss(module, lesson, extra, generator)

        trained = [*_learning(module), *extra]
        schedule = Schedule(steps, rate, round(_WARMUP * steps))
        return minimise(trained, loss, schedule, "recovery", run.progress, weight_decay=self.fitting.weight_decay)

    def _lesson(self, skeleton: Skeleton, rows: Sequence[int]) -> Lesson:
        """Some calibration rows with what the parent computes on them; blocks counted as the skeleton does."""
        teacher, some = self._teacher, list(rows)
        pairs = {index: skeleton.blocks[index] for index in spread(len(skeleton.blocks), _MATCHED)}
        after = {ours: teacher.after[theirs][some].to(self.device) for ours, theirs in pairs.items()}
        known = Teacher(teacher.head, teacher.final[some].to(self.device), after)
        return Lesson(self.text["calibration"].ids[some].to(self.device), known, teacher.head)

    @functools.cached_property
    def _teacher(self) -> Teacher:
        """The parent's states on all calibration rows, after every block that a skeleton is matched at."""
        each = [[one.blocks[index] for index in spread(len(one.blocks), _MATCHED)] for one in self.skeletons.values()]
        wanted = sorted(set(itertools.chain.from_iterable(each)))
        ids = self.text["calibration"].ids
        return Teacher.of(self.parent, ids, dict(zip(wanted, wanted, strict=True)), Run(device=self.device))

    def _extra(self, recovery: Recovery) -> list[torch.Tensor]:
        return [each.to(self.device) for each in recovery.extra(self.parent.architecture.size("hidden"))]

    def _steps(self, skeleton: Skeleton, recovery: Recovery) -> tuple[int, int]:
        """Updates of a cell, and the operations of one."""
        key = (skeleton.name, recovery.name)
        if key not in self._operations:
            module: Any = skeleton.module().to(self.device)
            for each in _learning(module):
                each.requires_grad_(True)
            rows = [row % len(self.text["calibration"].ids) for row in range(self.fitting.batch)]
            lesson, extra = self._lesson(skeleton, rows), self._extra(recovery)
            generator = torch.Generator()
            self._operations[key] = flops_of(lambda: recovery.loss(module, lesson, extra, generator).backward())
        cost = self._operations[key]
        return updates_within(self.flops, self.fitting.steps, cost, f"{key[0]} with {key[1]}"), cost

    @functools.cached_property
    def _operations(self) -> dict[tuple[str, str], int]:
        return {}

    @functools.cached_property
    def _parent_losses(self) -> dict[tuple[str, str], torch.Tensor]:
        """Mean loss of the parent on every row, nats a token, by part and domain."""
        found = {}
        head = head_weight(self.parent)
        for part, task in itertools.product(("selection", "held-out"), self.tasks):
            ids = self._rows(part, task)
            losses = []
            for row, states in zip(ids, stream(self.parent, ids), strict=True):
                losses.append(torch.nn.functional.cross_entropy(states[:-1] @ head.T, row[1:]))
            found[part, task] = torch.stack(losses).double()
        return found

    def _rows(self, part: str, task: str) -> torch.Tensor:
        tokens = self.text[part]
        return tokens.ids[[row for row, domain in enumerate(tokens.domains) if domain == task]]

    @torch.no_grad()
    def _gains(self, module: Any, part: str, task: str) -> torch.Tensor:
        """The parent's loss less the student's on every row, nats a token, float64 [rows]."""
        module.eval()
        ids = self._rows(part, task)
        batches = ids.to(self.device).split(_JUDGED)
        losses = torch.cat([next_token_losses(module, plain(each))[0] for each in batches])
        return self._parent_losses[part, task] - losses.double().reshape(len(ids), -1).mean(1).cpu()


def _learning(module: Any) -> list[torch.Tensor]:
    """What of a student learns: blocks and the norms outside, not the embedding and the head."""
    still = {id(each) for table in (module.get_input_embeddings(), module.get_output_embeddings())
             for each in table.parameters()}  # fmt: skip
    return [each for each in module.parameters() if id(each) not in still]
