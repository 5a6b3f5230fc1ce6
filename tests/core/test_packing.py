"""Packing: nothing is lost, no row overflows, and a packed row computes what its examples compute alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.examples import Example
from featherweight.core.packing import PackedRows, best_fit
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model
from featherweight.train.next_token import next_token_loss


def example(length: int, seed: int) -> Example:
    draw = np.random.default_rng(seed)
    return Example(draw.integers(3, 500, length).astype(np.int32), draw.random(length) < 0.5, f"line {seed}")


@given(st.lists(st.integers(1, 32), max_size=40))
def test_every_length_is_in_one_row_and_rows_do_not_overflow(lengths: list[int]) -> None:
    rows = best_fit(lengths, 32)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 32 for row in rows)
    assert len(rows) <= 2 * max(1, -(-sum(lengths) // 32))  # no two rows could be one
    assert rows == sorted(rows)


def test_best_fit() -> None:
    assert best_fit([3, 7, 5, 5, 10], 10) == [[0, 1], [2, 3], [4]]


def test_the_packed_loss_is_that_of_the_examples(tiny: Path) -> None:
    module = open_folder(tiny).module()
    examples = [example(length, seed) for seed, length in enumerate((5, 11, 8, 3, 16))]
    packed, alone = PackedRows(examples, 16), PackedRows(examples, 16, share=False)
    assert len(packed) == 3
    total, count = next_token_loss(module, packed.batch(range(3)))
    one_by_one = [next_token_loss(module, alone.batch([row])) for row in range(5)]
    assert count == packed.trainable() == sum(each for _, each in one_by_one) == packed.batch(range(3)).trainable
    torch.testing.assert_close(total, sum(each for each, _ in one_by_one), rtol=1e-6, atol=1e-5)


def test_the_exact_head_at_trained_positions_is_the_whole_loss(tiny: Path) -> None:
    module = open_folder(tiny).module()
    batch = PackedRows([example(12, 0)], 16).batch([0])
    total, count = next_token_loss(module, batch)
    whole = module(input_ids=batch.ids, labels=batch.labels).loss
    torch.testing.assert_close(total / count, whole, rtol=1e-6, atol=1e-6)


def test_rows_name_their_examples_and_have_a_digest() -> None:
    rows = PackedRows([example(4, 1), example(5, 2)], 16)
    assert rows.where([0]) == "line 1, line 2"
    assert rows.tokens == 9
    assert rows.digest == PackedRows([example(4, 1), example(5, 2)], 16).digest
    assert rows.digest != PackedRows([example(4, 1), example(5, 3)], 16).digest


def test_packed_rows_keep_to_sliding_windows(tmp_path: Path) -> None:
    module = open_folder(tiny_model(tmp_path, "gemma3_text", sliding_window=8)).module()
    examples = [example(length, seed) for seed, length in enumerate((20, 5, 12))]
    packed, alone = PackedRows(examples, 40), PackedRows(examples, 40, share=False)
    total, _ = next_token_loss(module, packed.batch([0]))
    one_by_one = sum(next_token_loss(module, alone.batch([row]))[0] for row in range(3))
    torch.testing.assert_close(total, one_by_one, rtol=1e-6, atol=1e-5)


def test_padding_of_a_lone_example_needs_no_mask_and_changes_nothing(tiny: Path) -> None:
    module = open_folder(tiny).module()
    rows = PackedRows([example(12, 0), example(7, 1)], 16, share=False)
    batch = rows.batch([0, 1])
    assert batch.positions[1].tolist() == list(range(12))
    together = next_token_loss(module, batch)[0]
    torch.testing.assert_close(together, sum(next_token_loss(module, rows.batch([row]))[0] for row in (0, 1)))
