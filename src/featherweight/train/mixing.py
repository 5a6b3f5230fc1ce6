"""Weights that all widths share, mixed at the price of one element-wise product.

With candidate widths N_1 < N_2 < … of the inputs and M_1 < M_2 < … of the outputs, weight entanglement sums the leading
M_j x N_i blocks of one matrix, each times the mixing weights of its two widths. Those blocks are nested prefixes, so
the double sum is the matrix times an outer product:

    sum_ij a_in[i] a_out[j] W[:M_j, :N_i] = W * (v_out v_in^T),   v_in = sum_i a_in[i] 1[n < N_i]

(arXiv 2606.04063 keeps binary masks for its sums; only the vectors are needed.) Channels must be in order of
importance. It knows no model: what the mixing weights are and which axis is which is the supernet's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.core.keep import rotary_pairs
from featherweight.core.lazy import torch


def prefixes(options: Sequence[int], size: int) -> torch.Tensor:
    """1[channel < option], float32 [options, size]."""
    return (torch.arange(size)[None] < torch.tensor(list(options))[:, None]).float()


def head_prefixes(options: Sequence[int], width: int) -> torch.Tensor:
    """Channels of a head that stay with each option, whole rotary pairs, float32 [options, width]."""
    masks = torch.zeros(len(options), width)
    for mask, option in zip(masks, options, strict=True):
        mask[rotary_pairs(width, option)] = 1
    return masks


def mixed(weight: torch.Tensor, v_out: torch.Tensor | None, v_in: torch.Tensor | None) -> torch.Tensor:
    """W * (v_out v_in^T); None = an axis that is not searched.

    Args:
        weight: [outputs, inputs], or a bias [outputs].
        v_out: [outputs].
        v_in: [inputs].
    """
    if v_out is not None:
        weight = weight * (v_out if weight.dim() == 1 else v_out[:, None])
    return weight if v_in is None or weight.dim() == 1 else weight * v_in


def mixed_by_loop(
    weight: torch.Tensor,
    outputs: Sequence[int],
    a_out: torch.Tensor,
    inputs: Sequence[int],
    a_in: torch.Tensor,
) -> torch.Tensor:
    """The double sum over all pairs of widths as it is defined: what `mixed` is tested and timed against.

    Args:
        weight: [outputs, inputs].
        outputs: candidate numbers of outputs.
        a_out: their mixing weights.
        inputs: candidate numbers of inputs.
        a_in: their mixing weights.
    """
    total = torch.zeros_like(weight)
    for rows, share_out in zip(outputs, a_out, strict=True):
        for columns, share_in in zip(inputs, a_in, strict=True):
            padding = (0, weight.shape[1] - columns, 0, weight.shape[0] - rows)
            total = total + share_out * share_in * torch.nn.functional.pad(weight[:rows, :columns], padding)
    return total


def by_heads(groups: torch.Tensor, heads_a_group: int, within: torch.Tensor) -> torch.Tensor:
    """Channels of all heads from those of the groups and those within a head, [groups * heads_a_group * width].

    Args:
        groups: [groups], what is left of each.
        heads_a_group: heads that share one fate.
        within: [width], what is left of each channel of a head.
    """
    return torch.kron(groups.repeat_interleave(heads_a_group), within)
