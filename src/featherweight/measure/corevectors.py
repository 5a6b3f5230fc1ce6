"""Corevectors: what a linear layer or a convolution reads, in the coordinates of its own singular vectors.

With [W | b] = U S V^T, the corevector of an input a is v = V_q^T [a; 1]: the first q coordinates, those to which the
layer answers most. Its output is W a + b = U S v, so S^-1 U^T of the output is the same vector again. In the layer that
the basis was made of both ways agree; in a changed one the second shows what the change does to its output, which no
input of that layer can show.

A convolution is the matrix [outputs, inputs x height x width (+ 1)] of its kernel, and each position of its output has
a corevector. Bases are made in float64 from the smaller Gram matrix: exact for the large directions that are kept,
blind to those below a millionth of the largest, which are left out.

Source: arXiv 2604.08424. Cost: q (inputs + 1) multiplications a position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch

_LEAST = 1e-6  # of the largest singular value: beyond, the Gram matrix knows nothing of a direction
_PART = 8192  # rows of a matrix that are in memory in float64


@dataclass(frozen=True)
class Basis:
    """Leading singular directions of a layer, largest first, in the dtype of its weights.

    Attributes:
        right: V_q^T without the column of the bias, [rank, inputs]; inputs of a convolution are its kernel's entries.
        offset: the column of the bias, [rank]; None where the layer has none.
        singular: S, [rank].
        left: U_q, [outputs, rank]; no rows where it was not kept, and then outputs cannot be looked at.
    """

    right: torch.Tensor
    offset: torch.Tensor | None
    singular: torch.Tensor
    left: torch.Tensor

    @property
    def rank(self) -> int:
        return len(self.singular)

    def of_inputs(self, layer: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """V_q^T [a; 1] at every position.

        Args:
            layer: whose inputs they are; of a convolution its stride, padding and dilation count.
            inputs: [..., inputs], or [rows, channels, height, width] of a convolution.

        Returns:
            [..., rank], or [rows, rank, height', width'].
        """
        right, offset = self._at(inputs)
        if isinstance(layer, torch.nn.Conv2d):
            kernel = right.reshape(self.rank, *layer.weight.shape[1:])
            places = (layer.stride, layer.padding, layer.dilation)
            return torch.nn.functional.conv2d(inputs, kernel, offset, *places)  # type: ignore[arg-type]
        return torch.nn.functional.linear(inputs, right, offset)

    def of_outputs(self, layer: torch.nn.Module, outputs: torch.Tensor) -> torch.Tensor:
        """S^-1 U_q^T y at every position, in the shapes of `of_inputs`."""
        back = (self.left / self.singular).to(outputs)
        if isinstance(layer, torch.nn.Conv2d):
            return torch.einsum("rchw,cq->rqhw", outputs, back)
        return outputs @ back

    def unlike(self, shape: tuple[int, ...]) -> str:
        """Why a layer whose matrix has this shape cannot be looked at in these directions, or nothing."""
        expected = (len(self.left) or shape[0], self.right.shape[1])
        return "" if shape == expected else f"its shape is {list(shape)}, the parent's {list(expected)}"

    def _at(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.right.to(like), None if self.offset is None else self.offset.to(like)


def kernel_matrix(layer: torch.nn.Module) -> torch.Tensor:
    """[W | b] of a linear or a convolution on the CPU, [outputs, inputs (+ 1)].

    Raises:
        DataError: another kind of layer, or a convolution of several groups or with other padding than zeros.
    """
    if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
        raise DataError(type(layer).__name__, "has no matrix to look through", "name linears and convolutions")
    if isinstance(layer, torch.nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
        raise DataError(
            f"a convolution of {layer.groups} groups, padded with {layer.padding_mode}", "is no single matrix",
            "leave it out",
        )  # fmt: skip
    weight = layer.weight.detach().cpu().flatten(1)
    return weight if layer.bias is None else torch.cat([weight, layer.bias.detach().cpu()[:, None]], 1)


def svd_basis(layer: torch.nn.Module, rank: int) -> Basis:
    """The `rank` largest singular directions of a layer, fewer where it has fewer.

    Args:
        layer: a linear or a convolution.
        rank: how many.

    Raises:
        DataError: no layer of these kinds, or one without any weight.
    """
    matrix = kernel_matrix(layer)
    tall = matrix.shape[0] > matrix.shape[1]
    short = matrix if tall else matrix.T  # as many columns as the smaller dimension
    values, vectors = _largest(_gram(short), rank)
    singular = values.clamp(min=0).sqrt()
    kept = singular > _LEAST * singular[0]
    singular, vectors = singular[kept], vectors[:, kept]
    if not len(singular):
        raise DataError("a layer", "has only zeros for weights, so it has no directions", "leave it out")
    other = torch.cat([part.double() @ vectors for part in short.split(_PART)]) / singular
    left, right = (other, vectors) if tall else (vectors, other)
    return _basis(layer, left, singular, right.T)


def _gram(matrix: torch.Tensor) -> torch.Tensor:
    """W^T W in float64; a vocabulary's rows are never all in memory in that."""
    total = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    for part in matrix.split(_PART):
        total.addmm_(part.double().T, part.double())
    return total


def random_basis(layer: torch.nn.Module, rank: int, generator: torch.Generator) -> Basis:
    """The control: orthonormal directions of the input drawn at random; `singular` is 1, and outputs show nothing."""
    matrix = kernel_matrix(layer)
    rank = min(rank, *matrix.shape)
    drawn = torch.randn(matrix.shape[1], rank, dtype=torch.float64, generator=generator)
    right = torch.linalg.qr(drawn).Q.T
    return _basis(layer, torch.zeros(matrix.shape[0], rank), torch.ones(rank), right)


def _basis(layer: Any, left: torch.Tensor, singular: torch.Tensor, right: torch.Tensor) -> Basis:
    dtype, biased = layer.weight.dtype, layer.bias is not None
    right, offset = (right[:, :-1], right[:, -1].to(dtype).contiguous()) if biased else (right, None)
    return Basis(right.to(dtype).contiguous(), offset, singular.to(dtype), left.to(dtype).contiguous())


def _largest(gram: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest eigenvalues of a symmetric matrix, falling, and their vectors as columns."""
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0)[:count], vectors.flip(1)[:, :count].contiguous()
