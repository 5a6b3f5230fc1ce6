"""Changes of scale that leave the function as it is: into a norm and the linears behind it, between channel pairs.

For any positive s, `W diag(s)` reading `x / s` computes what `W` reading `x` does; what produces x can absorb the
division: a norm's weight, or the rows of an earlier linear (value rows before the output projection, up rows before
the down projection). Query heads that share a key/value head share its scale.
"""

from __future__ import annotations

from featherweight.core.architecture import Architecture, Reads
from featherweight.core.lazy import torch
from featherweight.core.model import Model


def producer_rows(architecture: Architecture, read: Reads) -> tuple[str, int, int]:
    """The linear whose rows produce the input of `read`, with the first and last + 1 of those rows."""
    assert read.rows is not None
    axis = architecture.linear_axes[read.rows][0]
    total, width = architecture.size(axis), architecture.size(axis.split("+")[-1])
    return read.rows, total - width, total


def input_channels(architecture: Architecture, read: Reads) -> int:
    """How many independent scales the input of `read` has: one a channel, shared by the heads of a group."""
    if read.rows is None:
        return architecture.size("hidden")
    _, first, last = producer_rows(architecture, read)
    return last - first


def spread(architecture: Architecture, read: Reads, scale: torch.Tensor) -> torch.Tensor:
    """Independent scales as one a column of the reading linears."""
    columns = architecture.size(architecture.linear_axes[read.linears[0]][1])
    if scale.numel() == columns:
        return scale
    heads = scale.reshape(-1, 1, architecture.head_dim)
    return heads.expand(-1, architecture.heads_a_group, -1).reshape(-1)


def gather(architecture: Architecture, read: Reads, columns: torch.Tensor) -> torch.Tensor:
    """Means over the columns that share one scale: the inverse of `spread` for anything measured a column."""
    if columns.numel() == input_channels(architecture, read):
        return columns
    return columns.reshape(-1, architecture.heads_a_group, architecture.head_dim).mean(1).reshape(-1)


class Rescaling:
    """Collects changes of scale on a model, each of which leaves the function as it is."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.architecture = model.architecture
        self._changed: dict[str, torch.Tensor] = {}

    def weight(self, name: str) -> torch.Tensor:
        """The present float32 values of a parameter."""
        return self._changed[name] if name in self._changed else self.model.tensor(name)

    def divide_input(self, block: int, read: Reads, scale: torch.Tensor) -> None:
        """Divides the input of `read` in a block by `scale` (positive, [input channels]) and undoes it behind."""
        columns = spread(self.architecture, read, scale)
        for module in read.linears:
            name = self.architecture.linear(block, module)
            self._changed[name] = self.weight(name) * columns
        if read.norm is not None:
            name = f"model.layers.{block}.{read.norm}.weight"
            offset = self.architecture.norm_offset
            self._changed[name] = (self.weight(name) + offset) / scale - offset
            return
        module, first, last = producer_rows(self.architecture, read)
        name = self.architecture.linear(block, module)
        bias = name.removesuffix("weight") + "bias"
        for parameter in (name, bias) if bias in self.model.entries else (name,):
            rows = self.weight(parameter).clone()
            rows[first:last] /= scale[:, None] if rows.dim() == 2 else scale
            self._changed[parameter] = rows

    def finish(self) -> Model:
        """The model with all changes, in float32."""
        return self.model.with_changes(self._changed)


def fold_norms(model: Model) -> Model:
    """The same function with every norm before a linear at weight one."""
    result = Rescaling(model)
    architecture = model.architecture
    for block in range(architecture.blocks):
        for read in architecture.reads:
            if read.norm is not None:
                norm = result.weight(f"model.layers.{block}.{read.norm}.weight")
                result.divide_input(block, read, norm + architecture.norm_offset)
    return result.finish()


def equalize(model: Model) -> Model:
    """The same function with each producing row and its reading column brought to one norm."""
    result = Rescaling(model)
    architecture = model.architecture
    for block in range(architecture.blocks):
        for read in architecture.reads:
            if read.rows is None:
                continue
            module, first, last = producer_rows(architecture, read)
            rows = result.weight(architecture.linear(block, module))[first:last].norm(dim=1)
            squares = result.weight(architecture.linear(block, read.linears[0])).square().sum(0)
            columns = gather(architecture, read, squares).sqrt()
            scale = (rows / columns.clamp(min=1e-12)).sqrt().clamp(1e-4, 1e4)
            result.divide_input(block, read, scale)
    return result.finish()
