"""Signals that lie in installed packages, read by path: nothing of these packages is imported.

    pip install --no-deps aeon==1.6.0 sktime==1.2.0

- "ecg anomalies": a generated electrocardiogram of aeon (GutenTAG), 20 samples a beat, with stretches of abnormal
  beats; windows of 64 samples, abnormal or not; training and test are different recordings.
- "ecg phase": 20 s of a MIT-BIH record in sktime, 360 samples a second, every fourth taken; windows of 64 samples that
  end in one of six sixths of the way from one R peak to the next; the last third of the recording is the test.
- the others: sets of the UCR archive in aeon, with their own split into training and test.

The first has labels of its generator, the second labels that are computed from the signal itself: there is no clinical
label here.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from featherweight.core.errors import MissingExtra
from featherweight.core.labelled import Labelled
from featherweight.core.signal_files import Reading, read_signals
from featherweight.core.signals import Signals, windows
from featherweight.train.probe import Question
from featherweight.train.sequence_cells import World

ECG = ("ecg anomalies", "ecg phase")
ARCHIVE = ("GunPoint", "ArrowHead", "ItalyPowerDemand", "OSULeaf", "BasicMotions", "ACSF1")
_WINDOW, _SIXTHS = 64, 6
_LATER = 0.2  # of the training rows choose and do not train


def packaged(package: str, *parts: str) -> Path:
    """A file in an installed package.

    Raises:
        MissingExtra: the package is not there.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("a claim on signals of packages", f"--no-deps {package}")
    return Path(found.submodule_search_locations[0], *parts)


def world(name: str) -> World:
    """A set by its name in `ECG` or `ARCHIVE`."""
    known: Mapping[str, Callable[[], World]] = {ECG[0]: _anomalies, ECG[1]: _phase}
    return known[name]() if name in known else _archive(name)


def _column(path: Path, name: str) -> torch.Tensor:
    with path.open(encoding="utf-8") as file:
        return torch.tensor([float(row[name]) for row in csv.DictReader(file)])


def _anomalies() -> World:
    def recording(part: str, stride: int) -> tuple[torch.Tensor, list[str]]:
        path = packaged("aeon", "datasets", "data", "UnitTest", f"ecg-diff-count-3_{part}.csv")
        values, marks = (_column(path, name)[:, None] for name in ("value-0", "is_anomaly"))
        abnormal = windows(marks, _WINDOW, stride).sum((1, 2)) >= _WINDOW / 2
        return windows(values, _WINDOW, stride), ["abnormal" if each else "normal" for each in abnormal.tolist()]

    normal, _ = recording("TRAIN_NA", 4)
    train, known = recording("TRAIN_A", 4)
    test, judged = recording("TEST", 4)
    chosen = _thinned(known)
    return _world(ECG[0], torch.cat([normal, train]), (train[chosen], [known[row] for row in chosen]), (test, judged))


def _thinned(names: Sequence[str], every: int = 8) -> list[int]:
    """Rows of the abnormal, and one of so many of the normal."""
    return [row for row, name in enumerate(names) if name == "abnormal" or row % every == 0]


def _phase() -> World:
    signal = _column(packaged("sktime", "datasets", "data", "mitdb", "mitdb.csv"), "data")
    peaks = _peaks(signal)
    stretches, names = [], []
    for end in range(4 * _WINDOW + int(peaks[0]), int(peaks[-1]), 7):
        beat = max(place for place, peak in enumerate(peaks) if peak <= end)
        share = (end - peaks[beat]) / (peaks[beat + 1] - peaks[beat])
        stretches.append(signal[end - 4 * _WINDOW : end : 4])
        names.append(str(int(_SIXTHS * share)))
    values = torch.stack(stretches)[..., None]
    edge = 2 * len(values) // 3
    gap = 4 * _WINDOW // 7 + 1  # no window of the test overlaps one that was learnt from
    return _world(ECG[1], values[:edge], (values[:edge], names[:edge]), (values[edge + gap :], names[edge + gap :]))


def _peaks(signal: torch.Tensor) -> list[int]:
    """Places of R peaks: largest within 150 samples on both sides, far above the mean."""
    high = torch.nn.functional.max_pool1d(signal[None, None], 301, 1, 150)[0, 0]
    return ((signal == high) & (signal > signal.mean() + 2.5 * signal.std())).nonzero().flatten().tolist()


def _archive(name: str) -> World:
    parts = []
    for part in ("TRAIN", "TEST"):
        path = packaged("aeon", "datasets", "data", name, f"{name}_{part}.ts")
        found = read_signals(path, Reading(("class",)))
        parts.append((found.values, list(found.labels["class"])))
    return _world(name, parts[0][0], *parts)


def _world(
    name: str, learnt: torch.Tensor, known: tuple[torch.Tensor, list[str]], judged: tuple[torch.Tensor, list[str]]
) -> World:
    """Everything standardised by what is learnt from."""
    count = len(known[1])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    later = int(_LATER * count)
    both = Signals(torch.cat([known[0], judged[0]]), {"class": known[1] + judged[1]}, name).standardised(learnt)
    parts = {"training": order[later:], "validation": order[:later], "test": range(count, len(both))}
    question = Question(Labelled(both.values, tuple(both.labels["class"]), name), parts)
    pool = Signals(learnt, {}, name).standardised(learnt)
    return World(name, both.digest + pool.digest, pool.values, {name: question})
