"""What the backbones of a grid are trained on: waves made here, a user's signals or text; and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featherweight.core.errors import DataError, RecipeError
from featherweight.core.signal_files import Reading, read_signals
from featherweight.core.signals import Signals
from featherweight.core.waves import waves
from featherweight.train.probe import Question
from featherweight.train.sequence_cells import World
from featherweight.verbs.grid_text import is_text, world_of_text

WAVE_ROWS, WAVE_LABELS = 6000, {"training": 300, "validation": 300, "test": 2000}


def world_of_waves(seed: int, shuffled: bool, pool: int = WAVE_ROWS) -> World:
    """Waves to learn from, and labelled ones to be asked about: 300 to train on, 2,000 to judge on."""
    learnt, asked = waves(pool, 2 * seed), waves(sum(WAVE_LABELS.values()), 2 * seed + 1)
    if shuffled:
        learnt, asked = learnt.shuffled(2 * seed), asked.shuffled(2 * seed + 1)
    first, parts = 0, {}
    for name, count in WAVE_LABELS.items():
        parts[name] = range(first, first + count)
        first += count
    questions = {task: Question(asked.labelled(task), parts) for task in asked.labels}
    return World(learnt.source, learnt.digest + asked.digest, learnt.values, questions)


def world_of_signals(path: str | Path, reading: Reading, seed: int, shuffled: bool) -> World:
    """A file of signals: whatever is not kept for validation or test is learnt from, labelled or not.

    Raises:
        DataError: the file does not do, or no label is named.
    """
    signals = read_signals(path, reading)
    tasks = signals.labels
    if not tasks:
        raise DataError(str(path), "is to be judged by no label", "name a column or an array with --label")
    signals = signals.shuffled(seed) if shuffled else signals
    return split_signals(signals, seed)


def split_signals(signals: Signals, seed: int) -> World:
    """A world of signals: each task has parts of its own, and nothing that judges in any task is learnt from."""
    kept: set[int] = set()
    rows, parts = {}, {}
    for task, names in signals.labels.items():
        rows[task] = [row for row, name in enumerate(names) if name]
        parts[task] = signals.labelled(task).parts(seed)
        kept |= {rows[task][each] for name in ("validation", "test") for each in parts[task][name]}
    learnt = [row for row in range(len(signals)) if row not in kept]
    standard = signals.standardised(signals.values[learnt])
    questions = {
        task: Question(standard.labelled(task), {**each, "training": _unkept(each["training"], rows[task], kept)})
        for task, each in parts.items()
    }
    return World(signals.source, standard.digest, standard.values[learnt], questions)


def _unkept(training: Sequence[int], rows: Sequence[int], kept: set[int]) -> list[int]:
    """Training rows of a task that judge in no other."""
    return [each for each in training if rows[each] not in kept]


def open_world(source: str | Path | None, reading: Reading, length: int, seed: int, control: bool) -> World:
    """The world of a source: waves, a file of signals, a text."""
    if source is None:
        return world_of_waves(seed, control)
    if is_text(str(source)):
        return world_of_text(source, length)
    return world_of_signals(source, reading, seed, control)


def amounts(asked: Sequence[str], available: int | None, batch: int) -> tuple[int, ...]:
    """Amounts of data in rows: numbers, shares such as 25%, or a sixteenth, a quarter and all of what there is.

    Args:
        asked: as a person writes them.
        available: rows; None = as many as are asked for.
        batch: no usual amount is below it.

    Raises:
        RecipeError: not a number of rows, or more than there are.
    """
    if not asked and available is not None:
        least = min(batch, available)
        return tuple(sorted({max(available // 16, least), max(available // 4, least), available}))
    found = []
    for each in asked:
        number, percent, rest = each.strip().partition("%")
        try:
            rows = round(float(number) / 100 * (available or 0)) if percent else int(number)
        except ValueError:
            rows = 0
        if rest or rows < 1 or (available is not None and rows > available):
            there = "" if available is None else f" of {available:,} rows"
            raise RecipeError(f"--rows {each}", f"is no amount{there}", "write for example 300 or 25%")
        found.append(rows)
    return tuple(found)
