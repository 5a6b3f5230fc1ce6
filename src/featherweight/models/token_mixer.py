"""A block that mixes neighbouring tokens by depth-wise convolution, and folds into one convolution after training.

After RepMixer of MobileCLIP (arXiv 2311.17049), with padding kept out: padded tokens are zero where the convolution
reads them and take no part in the statistics of the normalisations. Copied beside a saved model, so it imports nothing
of Featherweight.
"""

from __future__ import annotations

import torch
from torch import nn

_SCALE = 1e-5


class TokenMixer(nn.Module):
    """x + scale * (norm(convolution(x)) + norm(x) - norm(x)), each with a batch normalisation of its own.

    Args:
        width: channels.
        kernel: tokens that a convolution sees; odd.
        folded: built as the one convolution that a trained block folds into.
    """

    def __init__(self, width: int, kernel: int, folded: bool = False) -> None:
        super().__init__()
        self.width, self.kernel, self.folded = width, kernel, folded
        self.convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=folded)
        if not folded:
            self.after, self.skip, self.base = (nn.BatchNorm1d(width) for _ in range(3))
            self.scale = nn.Parameter(torch.full((width,), _SCALE))

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Mixed tokens, zero where padded.

        Args:
            hidden: [rows, length, width].
            valid: bool [rows, length].
        """
        hidden = hidden * valid[..., None]
        mixed: torch.Tensor = self.convolution(hidden.mT).mT
        if self.folded:
            return mixed * valid[..., None]
        tokens = hidden[valid]
        update = self.after(mixed[valid]) + self.skip(tokens) - self.base(tokens)
        result = torch.zeros_like(hidden)
        result[valid] = tokens + self.scale * update
        return result

    @torch.no_grad()
    def fold(self) -> None:
        """Becomes one convolution that computes what the block computes in evaluation mode."""
        if self.folded:
            return
        after, skip, base = (_affine(norm) for norm in (self.after, self.skip, self.base))
        kernel = self.convolution.weight * (self.scale * after[0])[:, None, None]
        kernel[:, 0, self.kernel // 2] += 1 + self.scale * (skip[0] - base[0])
        whole = nn.Conv1d(self.width, self.width, self.kernel, padding=self.kernel // 2, groups=self.width)
        whole.weight.data = kernel.contiguous()
        whole.bias = nn.Parameter(self.scale * (after[1] + skip[1] - base[1]))
        self.convolution, self.folded = whole, True
        del self.after, self.skip, self.base, self.scale


def _affine(norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """A normalisation in evaluation mode as x * first + second."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    factor = norm.weight / (variance + norm.eps).sqrt()
    return factor, norm.bias - mean * factor
