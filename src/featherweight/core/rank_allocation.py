"""Ranks for a trained LoRA adapter after the fact (PARA, arXiv 2604.27796): one threshold over all its singular values.

The change of a weight, s * B A, is taken apart exactly without forming it: thin QR of both factors, SVD of the small
core, in float64, O((in + out) rank^2). The effective singular values |s| sigma of all modules are pooled and the
largest kept: as many as an energy asks for, ties included, or as a budget allows. What a module keeps is its new rank;
none, and it is not adapted any more. Kept values are not rescaled.

For a number of terms this is the least total squared error (Eckart-Young). For a number of parameters it is not, since
a term costs in + out: `by_cost` ranks by energy per parameter instead. Squared error is not loss: compare the result
with what `uniform_ranks` gives at no fewer parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from featherweight.core.adapter_folder import Adapter, LoraFactors, adapter_bytes
from featherweight.core.errors import AdapterError
from featherweight.core.lazy import torch

Ranks = Mapping[str, int]
"""Rank by module name."""

_NOTHING = 1e-13  # of the largest value: rounding of what is zero
_TIE = 1e-12  # relative: values that differ by less are equal


@dataclass(frozen=True)
class Spectrum:
    """The singular value decomposition of one module's change, float64.

    Attributes:
        left: [out, rank], orthonormal columns.
        values: [rank], |scale| * sigma, descending.
        right: [rank, in], orthonormal rows.
        scale: of the factors that it came from.
    """

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    scale: float

    @property
    def cost(self) -> int:
        """Numbers that one term needs."""
        return self.left.shape[0] + self.right.shape[1]

    def factors(self, rank: int, dtype: torch.dtype) -> LoraFactors:
        """The best factors of this rank, with the scale of the old ones, singular values shared out evenly."""
        root = (self.values[:rank] / (abs(self.scale) or 1.0)).sqrt()
        a, b = root[:, None] * self.right[:rank], self.left[:, :rank] * root
        return LoraFactors(a.to(dtype), b.to(dtype), self.scale)


def spectrum(factors: LoraFactors) -> Spectrum:
    """The singular value decomposition of scale * b @ a; a negative scale stays with the factors."""
    left, upper_b = torch.linalg.qr(factors.b.double())
    right, upper_a = torch.linalg.qr(factors.a.double().T)
    u, values, vt = torch.linalg.svd(upper_b @ upper_a.T)
    rank = len(values)
    return Spectrum(left @ u[:, :rank], abs(factors.scale) * values, vt[:rank] @ right.T, factors.scale)


def spectra(adapter: Adapter) -> dict[str, Spectrum]:
    """The decomposition of every module."""
    return {module: spectrum(factors) for module, factors in adapter.factors.items()}


@dataclass(frozen=True)
class _Pool:
    """All terms that are not zero, best first: their energy, their score and the index of their module."""

    energy: torch.Tensor
    score: torch.Tensor
    module: torch.Tensor
    names: tuple[str, ...]

    def ranks(self, kept: int) -> dict[str, int]:
        """Ranks when the first `kept` terms are."""
        counts = self.module[:kept].bincount(minlength=len(self.names)).tolist()
        return dict(zip(self.names, counts, strict=True))


def _pool(found: Mapping[str, Spectrum], by_cost: bool) -> _Pool:
    values = torch.cat([each.values for each in found.values()])
    module = torch.cat([torch.full((len(each.values),), index) for index, each in enumerate(found.values())])
    costs = torch.tensor([float(each.cost) for each in found.values()], dtype=torch.float64)
    score = values.square() / costs[module] if by_cost else values.square()
    order = score.sort(descending=True, stable=True).indices
    order = order[(values > _NOTHING * values.max())[order]]
    return _Pool(values.square()[order], score[order], module[order], tuple(found))


def terms_for(squares: torch.Tensor, share: float) -> int:
    """The fewest largest terms that hold a share of the sum.

    Args:
        squares: of singular values, descending.
        share: in (0, 1].
    """
    sums = squares.cumsum(0)
    return min(int(torch.searchsorted(sums, share * sums[-1])) + 1, len(squares))


def ranks_for_energy(found: Mapping[str, Spectrum], energy: float, by_cost: bool = False) -> dict[str, int]:
    """The fewest terms that hold this share of the squared norm, and those that tie with the last of them.

    Raises:
        AdapterError: the share is not in (0, 1].
    """
    if not 0 < energy <= 1:
        raise AdapterError(f"energy {energy:g}", "is no share of the energy", "give more than 0 and at most 1")
    pool = _pool(found, by_cost)
    if energy == 1 or not len(pool.score):
        return pool.ranks(len(pool.score))
    sums = pool.energy.cumsum(0)
    last = int(torch.searchsorted(sums, energy * sums[-1]))
    return pool.ranks(int((pool.score >= pool.score[last] * (1 - _TIE)).sum()))


def ranks_for_budget(
    found: Mapping[str, Spectrum], fits: Callable[[Ranks], bool], by_cost: bool = False
) -> dict[str, int]:
    """As many of the largest terms as fit, the pool being cut anywhere, also inside a tie.

    Args:
        found: by module.
        fits: whether ranks are within the budget; true of smaller ranks where it is true of larger ones.
        by_cost: rank terms by energy per parameter.
    """
    pool = _pool(found, by_cost)
    low, high = 0, len(pool.score)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(pool.ranks(middle)) else (low, middle - 1)
    return pool.ranks(low)


def uniform_ranks(found: Mapping[str, Spectrum], parameters: int) -> dict[str, int]:
    """The control: one rank for all modules, the least with at least this many parameters."""
    most = max(len(each.values) for each in found.values())
    for rank in range(1, most + 1):
        ranks = {module: min(rank, len(each.values)) for module, each in found.items()}
        if parameters_of(found, ranks) >= parameters:
            break
    return ranks


def parameters_of(found: Mapping[str, Spectrum], ranks: Ranks) -> int:
    """Numbers in factors of these ranks."""
    return sum(ranks.get(module, 0) * each.cost for module, each in found.items())


def bytes_of(adapter: Adapter, ranks: Ranks) -> int:
    """Exact bytes of the file of the adapter at these ranks, without making its factors."""
    sketch = {
        module: LoraFactors(
            old.a.new_empty((ranks[module], old.a.shape[1]), device="meta"),
            old.b.new_empty((old.b.shape[0], ranks[module]), device="meta"),
            old.scale,
        )
        for module, old in adapter.factors.items()
        if ranks.get(module, 0) > 0
    }
    return adapter_bytes(adapter.with_factors(sketch))


def energy_kept(found: Mapping[str, Spectrum], ranks: Ranks) -> float:
    """Share of the squared norm of all changes that is in the kept terms; 1 where there is none at all."""
    total = sum(float(each.values.square().sum()) for each in found.values())
    kept = sum(float(each.values[: ranks.get(module, 0)].square().sum()) for module, each in found.items())
    return kept / total if total else 1.0


def with_ranks(adapter: Adapter, found: Mapping[str, Spectrum], ranks: Ranks) -> Adapter:
    """The adapter at these ranks; a module that keeps its rank keeps its factors bit for bit, rank 0 is left out."""
    factors = {
        module: old if ranks[module] == old.rank else found[module].factors(ranks[module], old.a.dtype)
        for module, old in adapter.factors.items()
        if ranks.get(module, 0) > 0
    }
    return adapter.with_factors(factors)
