"""Synthetic tasks for merging: a character model is fine-tuned on prose under ciphers, in capitals, backwards, on code.

Two ciphers are alike to a model that must forget how prose is spelt: their changes have a cosine of about 0.3. Capitals
share next to nothing with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from claims.character_model import Toy, character_rows, vocabulary
from featherweight.core.data import TokenSet
from featherweight.train.loop import Schedule, minimise, shuffled

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
STEPS, RATE = 60, 1e-3


@dataclass(frozen=True)
class Task:
    """Rows of characters of one task, [rows, length]; no document is in two of them.

    Attributes:
        learnt: to fine-tune on.
        validation: to tune a merge on.
        held_out: to judge on.
    """

    learnt: torch.Tensor
    validation: torch.Tensor
    held_out: torch.Tensor

    def tokens(self) -> TokenSet:
        """The validation rows as a token set."""
        count = len(self.validation)
        return TokenSet(self.validation, ("task",) * count, tuple(range(count)))


def tasks(rows: int = 64) -> dict[str, Task]:
    """All tasks by name, with so many rows to tune on and to judge on."""
    documents = character_rows(vocabulary())
    parts = [
        torch.cat([each for index, each in enumerate(documents) if index % 8 in part])
        for part in ((0, 1, 2, 3, 4), (6,), (7,))
    ]
    learnt, validation, held_out = parts[0], _some(parts[1], rows), _some(parts[2], rows)
    first, second, capitals = _cipher(1), _cipher(2), _capitals()
    return {
        "first cipher": Task(first[learnt], first[validation], first[held_out]),
        "second cipher": Task(second[learnt], second[validation], second[held_out]),
        "capitals": Task(capitals[learnt], capitals[validation], capitals[held_out]),
        "backwards": Task(learnt.flip(1), validation.flip(1), held_out.flip(1)),
    }


def _some(rows: torch.Tensor, count: int) -> torch.Tensor:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]]


def _cipher(seed: int) -> torch.Tensor:
    """A permutation of the letters, as the number that each character gets."""
    letters = torch.tensor([vocabulary()[each] for each in _LETTERS])
    table = torch.arange(96)
    table[letters] = letters[torch.randperm(26, generator=torch.Generator().manual_seed(seed))]
    return table


def _capitals() -> torch.Tensor:
    numbers, table = vocabulary(), torch.arange(96)
    for each in _LETTERS:
        table[numbers[each]] = numbers.get(each.upper(), numbers[each])
    return table


def fine_tuned(toy: Toy, task: Task, folder: Path, seed: int) -> Path:
    """Fine-tunes all weights of the toy on a task and writes the model."""
    module = toy.model.module().requires_grad_(True)
    batch_of = shuffled(len(task.learnt), 16, torch.Generator().manual_seed(seed))

    def loss(step: int) -> torch.Tensor:
        batch = task.learnt[list(batch_of(step))]
        return module(input_ids=batch, labels=batch, use_cache=False).loss

    minimise(module.parameters(), loss, Schedule(STEPS, RATE, warmup=8), "fine-tune")
    module.save_pretrained(folder)
    return folder


def folders(toy: Toy, wanted: Mapping[str, Task], folder: Path, seed: int) -> dict[str, Path]:
    """A fine-tune of each task."""
    return {
        name: fine_tuned(toy, task, folder / name.replace(" ", "-"), 1000 * seed + number)
        for number, (name, task) in enumerate(wanted.items())
    }
