"""Monitors: streamed and watched scores agree, a folder gives back what was written, other models are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.layer_models import QUICK, damaged, tiny_rows

from featherweight.core.errors import CheckpointError, OutputError
from featherweight.core.labelled import Labelled
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.measure.layer_walk import look_first
from featherweight.measure.layers import fit_peepholes
from featherweight.measure.monitor import Monitor, monitor_of, score_texts, watching
from featherweight.measure.monitor_folder import FACTS, TENSORS, load_monitor, save_monitor
from featherweight.measure.probe_rows import ProbeRows, labelled_rows

TEXTS = ["def f(x): return x", "The statement is executed.", "a", "12 34"]


def made(folder: Path, rows: ProbeRows) -> Monitor:
    model = open_folder(folder)
    bases, first = look_first(model, rows, QUICK, Run())
    holes = fit_peepholes(first, bases, rows.targets, rows.names, QUICK, Run().generator)
    return monitor_of(holes, rows, [model])


@pytest.fixture(scope="module")
def monitor(tiny: Path) -> Monitor:
    return made(tiny, tiny_rows(tiny, 8))


def test_scores_of_texts(tiny: Path, monitor: Monitor) -> None:
    model = open_folder(tiny)
    found = score_texts(monitor, model, TEXTS)
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert [each.positions for each in found] == [max(length - 1, 1) for length in lengths]
    for each in found:
        assert 0 <= each.score <= 1 + 1e-12
        assert list(each.by_layer) == list(monitor.peepholes.holes)
        assert each.label in monitor.peepholes.names
    alone = [score_texts(monitor, model, [text])[0] for text in TEXTS]
    for one, other in zip(found, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)  # padding and company change nothing
    assert score_texts(monitor, model, []) == []


def test_a_loaded_model_that_is_watched_gives_the_same(tiny: Path, monitor: Monitor) -> None:
    model = open_folder(tiny)
    module = model.module()
    streamed = score_texts(monitor, model, TEXTS)
    with watching(module, monitor) as watch, torch.no_grad():
        for text, expected in zip(TEXTS, streamed, strict=True):
            ids = torch.tensor([model.tokenizer(text)["input_ids"]])
            whole = watch.scores(module(input_ids=ids).logits)[0]
            short = watch.scores(module(input_ids=ids, logits_to_keep=1).logits)[0]  # as servers do
            assert whole.score == pytest.approx(expected.last, abs=1e-5)
            assert whole.label == short.label == expected.label
            assert short.last == pytest.approx(expected.last, abs=1e-5)
    assert not any(each._forward_pre_hooks for each in module.modules())


def test_labels_of_texts_are_told_by_the_last_peephole(tiny: Path) -> None:
    model = open_folder(tiny)
    data = Labelled(
        [f"yes {index}" for index in range(9)] + [f"no {index}" for index in range(9)], ("a",) * 9 + ("b",) * 9
    )
    rows = labelled_rows(model, data, 16)
    found = made(tiny, rows)
    assert found.positions == "last"
    scores = score_texts(found, model, ["yes 3", "no 4"])
    assert [each.positions for each in scores] == [1, 1]
    assert all(each.score == each.last for each in scores)


def test_a_folder_gives_back_what_was_written(tiny: Path, monitor: Monitor, tmp_path: Path) -> None:
    model = open_folder(tiny)
    save_monitor(monitor, tmp_path / "monitor")
    assert sorted(path.name for path in (tmp_path / "monitor").iterdir()) == [FACTS, TENSORS]
    found = load_monitor(tmp_path / "monitor", model)
    assert score_texts(found, model, TEXTS) == score_texts(monitor, model, TEXTS)
    assert found.macs == monitor.macs
    with pytest.raises(OutputError, match="exists already"):
        save_monitor(monitor, tmp_path / "monitor")


def test_other_models_are_refused(tiny: Path, monitor: Monitor, tmp_path: Path) -> None:
    child = damaged(open_folder(tiny), "model.layers.1.*")
    save_monitor(monitor, tmp_path / "monitor")
    with pytest.raises(CheckpointError, match="none of the models"):
        load_monitor(tmp_path / "monitor", child)
    with pytest.raises(CheckpointError, match="none of the models"):
        score_texts(monitor, child, TEXTS)
    both = replace(monitor, models=(*monitor.models, child.fingerprint))
    assert len(score_texts(both, child, TEXTS)) == len(TEXTS)


def cut(folder: Path) -> None:
    path = folder / TENSORS
    path.write_bytes(path.read_bytes()[:-9])


def flipped(folder: Path) -> None:
    path = folder / TENSORS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def changed(**facts: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / FACTS).read_text())
        (folder / FACTS).write_text(json.dumps({**found, **facts}))

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "is not the file"), (flipped, "is not the file"), (changed(version=9), "has the version 9"),
        (changed(labels=["one", "two"]), "does not fit"), (changed(modules=["nothing"]), "lacks or misnames"),
        (changed(positions="first"), "positions"), (lambda folder: (folder / FACTS).unlink(), "has no monitor.json"),
        (lambda folder: (folder / FACTS).write_text("["), "not valid JSON"),
    ],
)  # fmt: skip
def test_damaged_monitors_are_refused(
    tiny: Path, monitor: Monitor, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    save_monitor(monitor, tmp_path / "monitor")
    damage(tmp_path / "monitor")
    with pytest.raises(CheckpointError, match=said):
        load_monitor(tmp_path / "monitor", open_folder(tiny))
