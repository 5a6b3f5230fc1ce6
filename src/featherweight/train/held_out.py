"""What a module, with or without its adapter, computes on rows that it is not trained on."""

from __future__ import annotations

from typing import Any

from featherweight.core.batch import Batch
from featherweight.core.lazy import np, torch
from featherweight.core.packing import PackedRows
from featherweight.train.next_token import causal_of, next_token_losses

_ROWS = 4  # that pass a module at once, at the most


def example_losses(module: Any, rows: PackedRows, device: str, tokens: int) -> np.ndarray:
    """Sum of the losses of each example, float64 [examples], in evaluation mode.

    Args:
        module: with or without an adapter.
        rows: to judge on.
        device: of the module.
        tokens: that pass the module at once, or a row where that is more.
    """
    totals, together = np.zeros(len(rows.examples)), _together(tokens, rows.length)
    with torch.inference_mode():
        for first in range(0, len(rows), together):
            chosen = range(first, min(first + together, len(rows)))
            batch = rows.batch(chosen)
            losses, kept = next_token_losses(module, batch.to(device))
            np.add.at(totals, _owners(rows, chosen, batch, kept.cpu()), losses.double().cpu().numpy())
    return totals


def _owners(rows: PackedRows, chosen: range, batch: Batch, kept: torch.Tensor) -> np.ndarray:
    """The example that each prediction belongs to, int64 [predictions]."""
    owners = np.full(batch.ids.shape, -1)
    for index, row in enumerate(chosen):
        for segment, number in enumerate(rows.rows[row]):
            owners[index][batch.segments[index].numpy() == segment] = number
    of_predictions: np.ndarray = owners[:, 1:][kept.numpy()]
    return of_predictions


def _together(tokens: int, length: int) -> int:
    return max(1, min(_ROWS, tokens // length))


def mean_loss(module: Any, rows: PackedRows, device: str, tokens: int) -> float:
    """Mean loss over all predictions that count."""
    return float(example_losses(module, rows, device, tokens).sum() / rows.trainable())


def final_states(module: Any, ids: torch.Tensor, device: str, tokens: int) -> torch.Tensor:
    """Final hidden states of rows of text, float32 [rows, length, hidden], on the CPU; `tokens` pass at once."""
    causal = causal_of(module)
    with torch.inference_mode():
        return torch.cat(
            [
                causal.model(input_ids=part.to(device), use_cache=False).last_hidden_state.float().cpu()
                for part in ids.split(_together(tokens, ids.shape[1]))
            ]
        )
