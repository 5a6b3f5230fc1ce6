"""Softmax regression to convergence: a linear classifier that depends on its rows alone, not on steps, rates or order.

    least mean cross-entropy(W f + b) + ridge / 2 |W|^2

on standardised features, by L-BFGS in float64; mean and scale are folded into W and b afterwards. The problem is
convex, so there is one answer, in milliseconds for some hundred rows.
"""

from __future__ import annotations

from typing import Any

import torch

from featherweight.core.lazy import np
from featherweight.core.numerics import mean_and_scale

_ITERATIONS = 500


def softmax_regression(
    features: torch.Tensor, targets: torch.Tensor, classes: int, ridge: float = 1e-3
) -> torch.nn.Linear:
    """A linear layer from features as they come to logits.

    Args:
        features: float32 [rows, width].
        targets: int64 [rows].
        classes: how many there are, whether or not they occur.
        ridge: weight of the squared weights.
    """
    from scipy.optimize import minimize

    mean, scale = mean_and_scale(features.double())
    inputs = ((features.double() - mean) / scale).cpu().numpy()
    wanted = np.eye(classes)[targets.cpu().numpy()]

    def loss(flat: Any) -> tuple[float, Any]:
        table = flat.reshape(-1, classes)
        logits = inputs @ table[:-1] + table[-1]
        logits -= logits.max(1, keepdims=True)
        chances = np.exp(logits)
        totals = chances.sum(1, keepdims=True)
        chances /= totals
        value = float((np.log(totals[:, 0]) - (wanted * logits).sum(1)).mean() + ridge / 2 * (table[:-1] ** 2).sum())
        error = (chances - wanted) / len(inputs)
        slope = np.vstack([inputs.T @ error + ridge * table[:-1], error.sum(0)])
        return value, slope.ravel()

    start = np.zeros((inputs.shape[1] + 1) * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}).x.reshape(-1, classes)
    weight = torch.from_numpy(found[:-1].T.copy()).to(scale.device) / scale
    layer = torch.nn.Linear(features.shape[1], classes).to(features.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.from_numpy(found[-1].copy()).to(scale.device) - weight @ mean)
    return layer.requires_grad_(False)
