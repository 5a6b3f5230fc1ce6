"""The next-token loss: a mean over predictions, blind to the logits of the last token."""

from __future__ import annotations

import torch

from featherweight.train.next_token import mean_next_token_loss


def test_it_is_the_mean_over_what_was_predicted() -> None:
    logits, ids = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)), torch.arange(10).view(2, 5) % 7
    chosen = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])
    assert torch.allclose(mean_next_token_loss(logits, ids), -chosen.mean())
    assert torch.equal(mean_next_token_loss(logits, ids), mean_next_token_loss(logits[:, :-1], ids))
