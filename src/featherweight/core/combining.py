"""Merged models whose tensors are computed when they are read, from base and deltas, and rounded once at the end.

`with_sums` adds deltas, each tensor with coefficients of its own, in float64 a stretch at a time. `with_elected` is for
methods that look at a whole tensor's deltas: thinned ones in float32, of which those that disagree with the sign of
their sum may be left out (TIES). One tensor of each model is then in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from featherweight.core.checkpoint import Entry
from featherweight.core.deltas import Delta, walk
from featherweight.core.formats import get
from featherweight.core.formats.floats import Float
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.stretches import Computed, count_of, stretches

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

Thin = Callable[[str, Delta, "torch.Tensor"], object]
"""Takes a tensor's name, whose delta it is and the delta, float32 [values], and leaves values out in place."""


def with_sums(
    base: Model,
    deltas: Sequence[Delta],
    coefficients: Mapping[str, Sequence[float]],
    share: float = 1.0,
    dtype: str | None = None,
) -> Model:
    """share * theta_0 + sum of c_i D_i.

    Args:
        base: theta_0.
        deltas: D.
        coefficients: c, by tensor; the other tensors are the base's.
        share: of the base.
        dtype: "float32", "bfloat16" or "float16"; None = that of each tensor of the base.
    """
    changed = {}
    for name in base.entries:
        factors = [float(each) for each in coefficients.get(name, ())]
        if any(factors) or share != 1:
            changed[name] = _entry(base, name, dtype, functools.partial(_sums, base, deltas, name, factors, share))
    return _typed(base, changed, dtype)


def summed(base: Model, deltas: Sequence[Delta], name: str, factors: Sequence[float]) -> torch.Tensor:
    """One tensor of theta_0 + sum of c_i D_i, float32."""
    pieces = functools.partial(_sums, base, deltas, name, factors, 1.0, torch.float32)
    return Computed(base.entries[name].shape, torch.float32, pieces)()


def _sums(
    base: Model, deltas: Sequence[Delta], name: str, factors: Sequence[float], share: float, kind: torch.dtype
) -> Iterator[torch.Tensor]:
    used = [(delta, factor) for delta, factor in zip(deltas, factors, strict=False) if factor]
    for _, own, pieces in walk(name, base, [delta for delta, _ in used]):
        total = own if share == 1 else own.mul_(share)
        for (_, factor), piece in zip(used, pieces, strict=True):
            total.add_(piece, alpha=factor)
        yield total.to(kind)


def with_elected(
    base: Model,
    deltas: Sequence[Delta],
    names: Sequence[str],
    thin: Thin,
    weights: Sequence[float],
    elect: bool,
    normalize: bool,
    factor: float = 1.0,
    dtype: str | None = None,
) -> Model:
    """theta_0 + factor * sum of w_i T(D_i), T thinning a delta.

    Args:
        base: theta_0.
        deltas: D.
        names: tensors that a delta changes.
        thin: T.
        weights: w.
        elect: whether values whose sign is not that of the weighted sum are left out.
        normalize: whether to divide by the sum of the weights of those that take part.
        factor: of the whole change.
        dtype: as for `with_sums`.
    """
    changed = {}
    for name in names:
        mix = functools.partial(_mix, base, deltas, name, thin, list(weights), elect, normalize, factor)
        changed[name] = _entry(base, name, dtype, mix)
    return _typed(base, changed, dtype)


def _mix(
    base: Model, deltas: Sequence[Delta], name: str, thin: Thin, weights: list[float], elect: bool, normalize: bool,
    factor: float, kind: torch.dtype,
) -> Iterator[torch.Tensor]:  # fmt: skip
    used = [(weight, delta) for weight, delta in zip(weights, deltas, strict=True) if delta.changes(name)]
    scales = torch.tensor([weight for weight, _ in used])[:, None]
    total = sum(weights) if abs(sum(weights)) >= 1e-8 else 1.0
    own, thinned = _whole(base, [delta for _, delta in used], name)
    for (_, delta), values in zip(used, thinned, strict=True):
        thin(name, delta, values)
    for first, last in stretches(len(own)):
        pieces = thinned[:, first:last] * scales
        change = _elected(pieces, scales, normalize) if elect else pieces.sum(0)
        if normalize and not elect:
            change /= total
        yield own[first:last].add_(change if factor == 1 else change * factor).to(kind)


def _whole(base: Model, deltas: Sequence[Delta], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One tensor of the base, float32 [values], and its deltas, float32 [deltas, values]."""
    count = count_of(base.entries[name])
    own, changes = torch.empty(count), torch.empty(len(deltas), count)
    for where, values, pieces in walk(name, base, deltas):
        own[where] = values
        changes[:, where] = pieces
    return own, changes


def _elected(pieces: torch.Tensor, weights: torch.Tensor, normalize: bool) -> torch.Tensor:
    """Sum, or mean, of the values whose sign is that of the sum; a sum of zero counts as positive.

    Args:
        pieces: weighted deltas, float32 [deltas, values].
        weights: float32 [deltas, 1].
        normalize: whether to divide by the weights of those.
    """
    majority = pieces.sum(0)
    sign = torch.copysign(torch.ones_like(majority), majority)
    agree = (pieces * sign).relu_()  # sizes of the values that agree, zero for the others
    change = agree.sum(0).mul_(sign)
    if normalize:
        divisor = (weights * agree.sign_()).sum(0)
        change /= divisor.add_(divisor == 0)
    return change


def _entry(base: Model, name: str, dtype: str | None, make: Callable[[torch.dtype], Iterator[torch.Tensor]]) -> Entry:
    entry = base.entries[name]
    format_name = DTYPES[dtype] if dtype else entry.format
    kind = Float(format_name).dtype
    computed = Computed(entry.shape, kind, functools.partial(make, kind))
    return Entry(format_name, entry.shape, get(format_name).tensor_bytes(entry.shape), computed)


def _typed(base: Model, changed: Mapping[str, Entry], dtype: str | None) -> Model:
    """The model, tensors that nobody changed in the wanted type too."""
    if dtype is None:
        return base.with_changes(changed)
    kind = DTYPES[dtype]
    others = {
        name: Entry(kind, entry.shape, get(kind).tensor_bytes(entry.shape), functools.partial(_cast, entry, kind))
        for name, entry in base.entries.items()
        if name not in changed and entry.format != kind
    }
    keys = {"dtype"} | {"torch_dtype"} & set(base.config)
    return base.with_changes({**changed, **others}, config=dict.fromkeys(keys, dtype))


def _cast(entry: Entry, kind: str) -> torch.Tensor:
    return entry.load().to(Float(kind).dtype)
