"""How far the states of one model are from another's at the same positions: relative error, cosine, CKA.

Error and cosine compare number with number, so both states must have one width. CKA compares which samples are alike
to which (linear, centred; arXiv 1905.00414), so widths may differ and a rotation changes nothing: what is left where a
child was pruned to another shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from featherweight.core.alignment import aligned
from featherweight.core.lazy import torch


@dataclass(frozen=True)
class StateDrift:
    """How far a layer's states are from the parent's.

    Attributes:
        relative: norm of the difference over the norm of the parent's state, float64 [samples]; None = other width.
        cosine: of both states, float64 [samples]; None = other width.
        cka: of all samples together.
        local: relative error when the layer reads what the parent's layer read, float64 [samples]: its own damage,
            without what came in; None = not measured.
    """

    relative: torch.Tensor | None
    cosine: torch.Tensor | None
    cka: float
    local: torch.Tensor | None = None


def relative_error(reference: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Norm of the difference over the norm of the reference, float64 [samples], of [samples, width]."""
    difference, size = (states.double() - reference.double()).norm(dim=-1), reference.double().norm(dim=-1)
    error: torch.Tensor = difference / size.clamp(min=1e-300)
    return error


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cosine over the last axis, float64; 0 where one of them is all zeros."""
    one, other = one.double(), other.double()
    found: torch.Tensor = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1)).clamp(min=1e-300)
    return found


def linear_cka(one: torch.Tensor, other: torch.Tensor) -> float:
    """Linear centred kernel alignment of states [samples, width] and [samples, other width]: 1 = alike.

    Of constants, which have no shape, 0.
    """
    a, b = (each.double() - each.double().mean(0) for each in (one, other))
    if len(a) < max(a.shape[1], b.shape[1]):
        first, second = a @ a.T, b @ b.T
        shared, own = (first * second).sum(), first.norm() * second.norm()
    else:
        shared, own = (a.T @ b).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    return float(shared / own) if own > 0 else 0.0


def state_drift(reference: torch.Tensor, states: torch.Tensor, local: torch.Tensor | None = None) -> StateDrift:
    """All of it.

    Args:
        reference: the parent's states, [samples, width].
        states: the child's, [samples, width or another one].
        local: what the child's layer makes of the parent's input, the shape of `reference`; None = not known.
    """
    own = None if local is None else relative_error(reference, local)
    cka = linear_cka(reference, states)
    if reference.shape != states.shape:
        return StateDrift(None, None, cka, own)
    return StateDrift(relative_error(reference, states), cosine(reference, states), cka, own)


def alignment(likeness: torch.Tensor) -> list[int]:
    """For each row the column it is matched with, rising from row to row, so that the sum of likeness is greatest.

    Args:
        likeness: [child layers, parent layers], no more rows than columns.
    """
    return aligned((-likeness.double()).tolist())
