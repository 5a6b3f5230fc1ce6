"""The ledger: a chain in which every change, removal and swap is found and named."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featherweight.core.errors import LedgerError
from featherweight.core.receipt import Ledger, Receipt, read_ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for number in range(5):
        ledger.append({"step": number, "quality": 0.9 + number / 100}, {"seconds": number})
    return ledger.path


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def test_chain_holds(path: Path) -> None:
    receipts = read_ledger(path)
    assert [receipt.content["step"] for receipt in receipts] == [0, 1, 2, 3, 4]
    assert all(later.previous == earlier.digest for earlier, later in itertools.pairwise(receipts))


@pytest.mark.parametrize("line", range(5))
def test_flip_is_named(path: Path, line: int) -> None:
    lines = lines_of(path)
    lines[line] = lines[line].replace(f'"step": {line}', '"step": 9')
    path.write_text("".join(lines))
    with pytest.raises(LedgerError, match=f"line {line + 1}: was changed"):
        read_ledger(path)


@pytest.mark.parametrize("line", range(4))
def test_deletion_is_named(path: Path, line: int) -> None:
    lines = lines_of(path)
    del lines[line]
    path.write_text("".join(lines))
    with pytest.raises(LedgerError, match=f"line {line + 1}: does not follow"):
        read_ledger(path)


@pytest.mark.parametrize("line", range(4))
def test_swap_is_named(path: Path, line: int) -> None:
    lines = lines_of(path)
    lines[line], lines[line + 1] = lines[line + 1], lines[line]
    path.write_text("".join(lines))
    with pytest.raises(LedgerError, match=f"line {line + 1}: does not follow"):
        read_ledger(path)


def test_garbage_is_named(path: Path) -> None:
    path.write_text(path.read_text() + "hello\n")
    with pytest.raises(LedgerError, match="line 6: is not a receipt"):
        read_ledger(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_single_changed_character_is_found(path: Path, data: st.DataObject) -> None:
    text = path.read_text()
    # Volatile facts are for people and are not hashed; everything before them is.
    places = [i for line in _spans(text) for i in range(line[0], line[1])]
    place = data.draw(st.sampled_from(places))
    other = data.draw(st.sampled_from("0123456789abcdef").filter(lambda letter: letter != text[place]))
    path.write_text(text[:place] + other + text[place + 1 :])
    try:
        with pytest.raises(LedgerError):
            read_ledger(path)
    finally:
        path.write_text(text)


def _spans(text: str) -> list[tuple[int, int]]:
    """Where the hashed part of each line lies: its content and its hashes."""
    spans, start = [], 0
    for line in text.splitlines(keepends=True):
        spans.append((start + line.index('"content"') + 12, start + line.index('"volatile"') - 4))
        start += len(line)
    return spans


def test_half_a_line_of_a_killed_run_is_cut(path: Path) -> None:
    whole = path.read_text()
    path.write_text(whole + '{"hash": "12')
    ledger = Ledger(path)
    assert len(ledger) == 5
    assert path.read_text() == whole
    ledger.append({"step": 5})
    assert len(read_ledger(path)) == 6


def test_equal_content_has_equal_hashes_whatever_the_time() -> None:
    one = Receipt("0" * 64, {"a": 1}, {"time": "then", "seconds": 1})
    other = Receipt("0" * 64, {"a": 1}, {"time": "now", "seconds": 2})
    assert one.digest == other.digest
    assert one.digest != Receipt("0" * 64, {"a": 2}).digest
