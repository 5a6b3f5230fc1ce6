"""Batches: what counts, and that packed conversations do not see each other."""

from __future__ import annotations

from pathlib import Path

import torch

from featherweight.core.batch import IGNORED, Batch
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def packed() -> Batch:
    """Two conversations of five and three tokens in one row."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 15, 16, 17]])
    labels = torch.tensor([[IGNORED, IGNORED, 7, 8, 9, 15, 16, IGNORED]])
    return Batch(ids, labels, torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]]), torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]]))


def test_the_first_token_of_a_conversation_is_not_predicted_from_the_one_before_it() -> None:
    batch = packed()
    assert batch.targets.tolist() == [[IGNORED, 7, 8, 9, IGNORED, 16, IGNORED]]
    assert batch.trainable == 4


def test_packed_conversations_give_the_logits_of_separate_ones(tmp_path: Path) -> None:
    module = open_folder(tiny_model(tmp_path)).module().eval()
    batch = packed()
    together = module(**batch.inputs()).logits[0]
    parts = [module(input_ids=batch.ids[:, part], use_cache=False).logits[0] for part in (slice(5), slice(5, 8))]
    torch.testing.assert_close(together, torch.cat(parts), **CLOSE)


def test_padding_changes_nothing_and_gives_no_nan(tmp_path: Path) -> None:
    module = open_folder(tiny_model(tmp_path)).module().eval()
    ids = torch.tensor([[5, 6, 7, 0, 0]])
    batch = Batch(ids, ids, torch.tensor([[0, 1, 2, 0, 0]]), torch.tensor([[0, 0, 0, -1, -1]]))
    logits = module(**batch.inputs()).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, :3], module(input_ids=ids[:, :3], use_cache=False).logits, **CLOSE)
