"""Random rows of tokens of which a share is trained on."""

from __future__ import annotations

import torch

from featherweight.core.batch import Batch
from featherweight.testing.tiny import VOCABULARY


def batch_of(rows: int = 2, length: int = 24, share: float = 0.3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) > share, -100)
    return Batch(ids, labels, torch.arange(length).expand_as(ids), torch.zeros_like(ids))
