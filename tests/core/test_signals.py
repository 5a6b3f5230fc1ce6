"""Signals: what a file holds is what is read, and what cannot be read is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from featherweight.core.errors import DataError
from featherweight.core.signal_files import Reading, read_signals
from featherweight.core.signals import Signals, commonest, windows
from featherweight.core.waves import CLASSES, LENGTH, waves


def csv(folder: Path, text: str) -> Path:
    path = folder / "signals.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_with_a_signal_a_row(tmp_path: Path) -> None:
    path = csv(tmp_path, "t0,t1,t2,kind,person\n1,2,3,b,x\n4,5,6,,y\n7,8,9,a,x\n")
    found = read_signals(path, Reading(("kind", "person")))
    assert found.values.tolist() == [[[1], [2], [3]], [[4], [5], [6]], [[7], [8], [9]]]
    assert found.labels == {"kind": ["b", "", "a"], "person": ["x", "y", "x"]}
    assert found.labelled("kind").labels == ("b", "a")
    assert found.labelled("kind").classes == ("a", "b")
    some = read_signals(path, Reading(("kind",), ("t2", "t0")))
    assert some.values[0].flatten().tolist() == [3, 1]


def test_a_recording_cut_into_windows(tmp_path: Path) -> None:
    rows = "\n".join(f"{step},{-step},{'odd' if step in (4, 5, 6) else 'even'}" for step in range(11))
    path = csv(tmp_path, f"one,two,kind\n{rows}\n")
    found = read_signals(path, Reading(("kind",), window=3, stride=4))
    assert found.values[:, :, 0].tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
    assert found.values[1, :, 1].tolist() == [-4, -5, -6]
    assert found.labels["kind"] == ["even", "odd", "even"]


def test_the_commonest_label_and_the_first_of_equals() -> None:
    assert commonest(list("aabbbcba"), 4, 4) == ["a", "b"]
    assert windows(torch.arange(10.0)[:, None], 4, 4)[..., 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("name", ["x", "signals"])
def test_arrays(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 2))
    np.savez(tmp_path / "a.npz", **{name: values, "y": np.array([0, 1, 0, 1])})
    found = read_signals(tmp_path / "a.npz", Reading(("y",)))
    assert torch.allclose(found.values, torch.tensor(values, dtype=torch.float32))
    assert found.labels["y"] == ["0", "1", "0", "1"]
    np.savez(tmp_path / "flat.npz", **{name: values[..., 0]})
    assert read_signals(tmp_path / "flat.npz", Reading()).values.shape == (4, 5, 1)


def test_series_of_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "two.ts"
    path.write_text("#a comment\n@problemName two\n@timeStamps false\n@classLabel true a b\n@data\n"
                    "1,2,3:4,5,6:a\n7,8,9:1,1,1:b\n")  # fmt: skip
    found = read_signals(path, Reading(("class",)))
    assert found.values.tolist() == [[[1, 4], [2, 5], [3, 6]], [[7, 1], [8, 1], [9, 1]]]
    assert found.labels["class"] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "reading", "said"),
    [
        ("a,b\n1,x\n2,3\n", Reading(), "row 1, column 'b': holds 'x', which is no number"),
        ("a,b\n1,2\n2\n", Reading(), "row 2: has 1 columns of 2; complete it"),
        ("a,b\n1,2\n2,nan\n", Reading(), "is not a number in row 1, sample 1"),
        ("a,b\n1,2\n2,3\n", Reading(("kind",)), "column 'kind': is not there; it has a, b"),
        ("alpha,b\n1,2\n2,3\n", Reading(columns=("alphq",)), "did you mean 'alpha'"),
        ("a,b\n", Reading(), "holds a header at most"),
        ("1,2\n3,4\n5,6\n", Reading(), "has no header"),
        ("a,b\n1,2\n", Reading(), "holds 1 signals of 2 samples"),
        ("a\n1\n2\n3\n", Reading(window=9), "holds 3 samples, less than a window of 9"),
    ],
)
def test_a_bad_table(tmp_path: Path, text: str, reading: Reading, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_signals(csv(tmp_path, text), reading)


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist; give a \.csv, \.npz or \.ts file"):
        read_signals(tmp_path / "none.csv", Reading())
    with pytest.raises(DataError, match="is no file of signals"):
        read_signals(tmp_path / "none.wav", Reading())
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        read_signals(tmp_path / "objects.npz", Reading())
    np.savez(tmp_path / "other.npz", z=np.zeros((3, 3)))
    with pytest.raises(DataError, match="has no array of signals among z"):
        read_signals(tmp_path / "other.npz", Reading())
    (tmp_path / "uneven.ts").write_text("@classLabel true a\n@data\n1,2,3:a\n1,2:a\n")
    with pytest.raises(DataError, match="holds series of 2 to 3 samples"):
        read_signals(tmp_path / "uneven.ts", Reading())
    with pytest.raises(DataError, match="would be learnt from"):
        Reading(window=10, stride=5)
    with pytest.raises(DataError, match="needs a window"):
        Reading(stride=5)
    with pytest.raises(DataError, match="has 2 labels for 3 rows"):
        Signals(torch.zeros(3, 2, 1), {"kind": ["a", "b"]})


def test_waves_repeat_and_only_their_order_tells_the_class() -> None:
    one, other = waves(40, 3), waves(40, 3)
    assert one.digest == other.digest != waves(40, 4).digest
    assert one.values.shape == (40, LENGTH, 1)
    assert set(waves(300, 0).labels["frequency"]) == {str(each) for each in range(CLASSES)}
    shuffled = one.shuffled(0)
    assert shuffled.labels == one.labels
    assert torch.equal(shuffled.values.sort(1).values, one.values.sort(1).values)
    assert not torch.equal(shuffled.values, one.values)


def test_the_peak_of_the_spectrum_is_the_class() -> None:
    found = waves(600, 1)
    peaks = torch.fft.rfft(found.values[..., 0]).abs()[:, 2:10].argmax(1) + 2
    right = (peaks - 3 == torch.tensor([int(each) for each in found.labels["frequency"]])).float().mean()
    assert right > 0.9


def test_channels_are_standardised_by_what_is_learnt_from() -> None:
    values = torch.randn(50, 8, 2) * torch.tensor([3.0, 0.0]) + torch.tensor([5.0, 2.0])
    found = Signals(values, {}).standardised(values[:30])
    assert found.values[:30, :, 0].mean().abs() < 1e-5
    assert found.values[:30, :, 0].std(correction=0) == pytest.approx(1, abs=1e-4)
    assert bool((found.values[..., 1] == 0).all())
