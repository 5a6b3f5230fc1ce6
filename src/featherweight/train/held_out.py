"""What a module, with or without its adapter, computes on rows that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featherweight.core.batch import Batch
from featherweight.core.lazy import np, torch
from featherweight.core.packing import PackedRows
from featherweight.train.next_token import causal_of, next_token_losses

_TOGETHER = 4  # rows


def example_losses(
    module: Any, rows: PackedRows, device: str, advance: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Sum of the losses of each example, float64 [examples], in evaluation mode."""
    totals = np.zeros(len(rows.examples))
    with torch.inference_mode():
        for first in range(0, len(rows), _TOGETHER):
            chosen = range(first, min(first + _TOGETHER, len(rows)))
            batch = rows.batch(chosen)
            losses, kept = next_token_losses(module, batch.to(device))
            np.add.at(totals, _owners(rows, chosen, batch, kept.cpu()), losses.double().cpu().numpy())
            advance()
    return totals


def _owners(rows: PackedRows, chosen: range, batch: Batch, kept: torch.Tensor) -> np.ndarray:
    """The example that each prediction belongs to, int64 [predictions]."""
    owners = np.full(batch.ids.shape, -1)
    for index, row in enumerate(chosen):
        for segment, number in enumerate(rows.rows[row]):
            owners[index][batch.segments[index].numpy() == segment] = number
    of_predictions: np.ndarray = owners[:, 1:][kept.numpy()]
    return of_predictions


def mean_loss(module: Any, rows: PackedRows, device: str) -> float:
    """Mean loss over all predictions that count."""
    return float(example_losses(module, rows, device).sum() / rows.trainable())


def final_states(module: Any, ids: torch.Tensor, device: str) -> torch.Tensor:
    """Final hidden states of rows of text, float32 [rows, tokens, hidden], on the CPU."""
    causal = causal_of(module)
    with torch.inference_mode():
        return torch.cat(
            [
                causal.model(input_ids=part.to(device), use_cache=False).last_hidden_state.float().cpu()
                for part in ids.split(_TOGETHER)
            ]
        )
