"""Signals from a file of the user's: .csv, .npz, or .ts as time-series archives have it.

- .csv with a header: without `window`, a row is one signal and its columns are the samples; with it, a row is a moment,
  columns are channels, and windows are cut from top to bottom, each with the commonest label inside.
- .npz: one array of signals, [rows, samples] or [rows, samples, channels], called x, signals, data or values, and an
  array for every label. Pickled objects are not read.
- .ts: series of equal length, channels separated by colons, the class at the end of the line.

A label is a column, or an array, that is named; whatever else is in a table must be numbers, unless `columns` says
which.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherweight.core.errors import DataError, nearest
from featherweight.core.lazy import np, torch
from featherweight.core.signals import UNLABELLED, Signals, commonest, windows
from featherweight.core.user_file import read_text

_ARRAYS = ("x", "X", "signals", "data", "values")
_CLASS = "class"
_KINDS = ".csv, .npz or .ts"


@dataclass(frozen=True)
class Reading:
    """How a file is read.

    Attributes:
        labels: names of the columns or arrays that are labels; of a .ts file the label is called "class".
        columns: of a table, those that hold the signal; none = all that are no labels.
        window: samples of a window cut from a long recording; None = each row is a signal.
        stride: from the start of a window to that of the next; None = a window.
    """

    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.window is None and self.stride is not None:
            raise DataError(f"a stride of {self.stride}", "needs a window", "say how many samples a window has")
        if self.window is not None and not 2 <= self.window <= (self.stride or self.window):
            raise DataError(
                f"a window of {self.window} samples with a stride of {self.stride or self.window}",
                "is empty, or overlaps the next one, so that what judges would be learnt from",
                "give a window of at least 2 samples, and a stride of at least the window",
            )  # fmt: skip


def read_signals(path: str | Path, reading: Reading) -> Signals:
    """The signals of a file.

    Raises:
        DataError: it is missing, of another kind, has a gap, or does not hold the named columns.
    """
    source = Path(path)
    kinds = {".csv": _csv, ".npz": _npz, ".ts": _ts}
    if source.suffix not in kinds:
        raise DataError(str(path), "is no file of signals", f"give a {_KINDS} file")
    if not source.is_file():
        raise DataError(f"signals {str(path)!r}", "does not exist", f"give a {_KINDS} file")
    found = kinds[source.suffix](source, reading)
    if len(found) < 2 or found.samples < 2:
        raise DataError(str(path), f"holds {len(found)} signals of {found.samples} samples", "give more of both")
    return found


def _csv(path: Path, reading: Reading) -> Signals:
    lines = list(csv.reader(io.StringIO(read_text(path, str(path), "give a .csv file"))))
    header, *rows = [line for line in lines if line] or [[]]
    if header and all(_is_number(name) for name in header):
        raise DataError(str(path), "has no header", "write the names of the columns into its first line")
    if not rows:
        raise DataError(str(path), "holds a header at most", "give a table with a header and a row for each signal")
    _require(header, (*reading.labels, *reading.columns), str(path))
    chosen = reading.columns or tuple(name for name in header if name not in reading.labels)
    values = np.empty((len(rows), len(chosen)), dtype=np.float32)
    places = [header.index(name) for name in chosen]
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise DataError(f"{path}, row {number + 1}", f"has {len(row)} columns of {len(header)}", "complete it")
        values[number] = [_number(row[place], path, number, header[place]) for place in places]
    labels = {name: [row[header.index(name)].strip() for row in rows] for name in reading.labels}
    return _cut(torch.from_numpy(values), labels, reading, str(path))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _require(known: Sequence[str], asked: Sequence[str], where: str) -> None:
    for name in asked:
        if name not in known:
            some = ", ".join(list(known)[:8])
            raise DataError(f"{where}, column {name!r}", "is not there", nearest(name, known) or f"it has {some}")


def _number(text: str, path: Path, row: int, column: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(
            f"{path}, row {row + 1}, column {column!r}", f"holds {text!r}, which is no number",
            "fill it, name it with --label, or choose the signal's columns with --columns",
        ) from None  # fmt: skip


def _cut(table: torch.Tensor, labels: dict[str, list[str]], reading: Reading, source: str) -> Signals:
    """A table as one signal a row, or as windows of one long recording."""
    if reading.window is None:
        return Signals(table[..., None], labels, source)
    if len(table) < reading.window:
        raise DataError(source, f"holds {len(table)} samples, less than a window of {reading.window}", "shorten it")
    stride = reading.stride or reading.window
    cut = windows(table, reading.window, stride)
    return Signals(cut, {task: commonest(names, reading.window, stride) for task, names in labels.items()}, source)


def _npz(path: Path, reading: Reading) -> Signals:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "save plain arrays with numpy.savez") from None
    _require(list(arrays), reading.labels, str(path))
    named = next((name for name in (*reading.columns, *_ARRAYS) if name in arrays), None)
    if named is None or arrays[named].ndim not in (2, 3) or arrays[named].dtype.kind not in "fiu":
        raise DataError(
            str(path), f"has no array of signals among {', '.join(arrays)}",
            "call one x, of shape [rows, samples] or [rows, samples, channels]",
        )  # fmt: skip
    values = torch.from_numpy(arrays[named].astype(np.float32))
    labels = {name: [str(each) for each in arrays[name].tolist()] for name in reading.labels}
    if reading.window is not None and values.dim() == 2:
        return _cut(values, labels, reading, str(path))
    return Signals(values if values.dim() == 3 else values[..., None], labels, str(path))


def _ts(path: Path, reading: Reading) -> Signals:
    lines = read_text(path, str(path), "give a .ts file").splitlines()
    start = next((place for place, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if start is None:
        raise DataError(str(path), "has no line @data", "give a file of the time-series classification archive")
    head = " ".join(lines[:start]).lower()
    if "@timestamps true" in head:
        raise DataError(str(path), "has a time for every sample", "give one with samples at equal distances")
    classes = "@classlabel true" in head
    _require([_CLASS] if classes else [], reading.labels, str(path))
    series, names = [], []
    for number, line in enumerate(each for each in lines[start + 1 :] if each.strip()):
        parts = line.strip().split(":")
        names.append(parts.pop() if classes else UNLABELLED)
        series.append([[_number(each, path, number, "the series") for each in part.split(",")] for part in parts])
    lengths = {len(channel) for each in series for channel in each}
    if len(lengths) != 1 or len({len(each) for each in series}) != 1:
        raise DataError(str(path), f"holds series of {min(lengths, default=0)} to {max(lengths, default=0)} samples",
                        "pad or cut them to one length")  # fmt: skip
    return Signals(torch.tensor(series).transpose(1, 2).contiguous(), {_CLASS: names} if classes else {}, str(path))


def is_signals(name: str) -> bool:
    """Whether a name looks like that of a file of signals."""
    return Path(name).suffix in (".csv", ".npz", ".ts")
