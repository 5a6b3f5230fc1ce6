"""One matrix on several number formats at once, each with a low-rank correction of its own.

Scales are fitted once, by the format itself, to the pretrained matrix; a corrected weight goes to the nearest value of
that frozen grid, and the gradient passes straight through. Without correction the result is what rounding to nearest
stores, bit for bit. One shared correction is unstable, because what helps two bits is far too much for eight
(arXiv 2606.04063).
"""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.core.formats import FLOATS, Grid, Packed, get
from featherweight.core.lazy import torch
from featherweight.core.numerics import straight_through


class Grids:
    """A matrix and the formats it may take.

    Args:
        weight: [rows, columns] float32.
        formats: names of number formats; none = it stays as it is.
        rank: of the corrections; 0 = there are none.
        generator: draws the first factors; the second ones start at zero.
    """

    def __init__(self, weight: torch.Tensor, formats: Sequence[str], rank: int, generator: torch.Generator) -> None:
        self.weight = weight
        self.fitted = [_Fitted(weight, kind) for kind in formats]
        rows, columns = weight.shape
        rank = min(rank, rows, columns) if formats else 0
        self.down = [
            torch.randn(rank, columns, generator=generator) / columns**0.5 for _ in range(len(formats) if rank else 0)
        ]
        self.up = [torch.zeros(rows, rank) for _ in self.down]
        self._still: torch.Tensor | None = None

    def parameters(self) -> list[torch.Tensor]:
        """The factors of all corrections."""
        return [*self.down, *self.up]

    def rounded(self) -> torch.Tensor:
        """The matrix in every format, [formats, rows, columns], with gradients with respect to the corrections."""
        if not self.fitted:
            return self.weight[None]
        if not self.down:
            return self.uncorrected()
        return torch.stack([
            each.nearest(self.weight + up @ down)
            for each, up, down in zip(self.fitted, self.up, self.down, strict=True)
        ])  # fmt: skip

    def uncorrected(self) -> torch.Tensor:
        """The same without corrections: what rounding to nearest gives."""
        return torch.stack([each.values for each in self.fitted]) if self.fitted else self.weight[None]

    def mixture(self, shares: torch.Tensor | None, corrections: str) -> torch.Tensor:
        """The matrix with its formats in some shares, [rows, columns].

        Args:
            shares: of the formats, [formats]; None where there is nothing to mix.
            corrections: "moving" with their gradients; "still" without; "none" leaves them out.
        """
        if shares is None or not self.fitted:
            return self.weight
        if corrections == "none" and float(shares.max()) == 1:
            return self.fitted[int(shares.argmax())].values
        kinds = {"moving": self.rounded, "still": self.still, "none": self.uncorrected}[corrections]()
        mixed: torch.Tensor = torch.tensordot(shares, kinds, dims=1)
        return mixed

    def still(self) -> torch.Tensor:
        """`rounded` without gradients, computed once until `moved`."""
        if self._still is None:
            with torch.no_grad():
                self._still = self.rounded()
        return self._still

    def moved(self) -> None:
        """The corrections have changed."""
        self._still = None


class _Fitted:
    """A matrix as one format stores it, and its grid for weights nearby."""

    def __init__(self, weight: torch.Tensor, kind: str) -> None:
        self.weight, self.format = weight, get(kind)
        packed = self.format.fit(weight)
        self.values = packed.dequantize()
        self.packed: Packed | None = None if kind in FLOATS else packed
        self.grid: Grid | None = None if self.packed is None else self.format.grid(packed)

    def nearest(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight near the fitted one, on its grid."""
        with torch.no_grad():
            # A format's own search need not give the nearest codes, so an unmoved weight keeps what it was given.
            values = self.values if torch.equal(weight, self.weight) else self._snapped(weight)
        return straight_through(weight, values)

    def _snapped(self, weight: torch.Tensor) -> torch.Tensor:
        if self.packed is None or self.grid is None:
            return self.format.fit(weight).dequantize()
        return self.format.recode(self.packed, self.grid.nearest(weight)).dequantize()
