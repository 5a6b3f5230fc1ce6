"""A supernet: one stock module that computes any mixture of the narrower, shorter, rounded models inside it.

The module runs with weights that are mixed beforehand (`mixing`, `grids`), so its attention, rotation and activation
are transformers' own. Only two things are put in: norms divide by the root mean square over the channels that are
active, and every block has a gate between its input and its output. With one option for certain everywhere it computes
what the sliced and rounded model computes.

Rounding comes before the masks of the widths: at every choice that is the same thing, since widths are multiples of a
format's groups; between choices it keeps the steps of the real grids, where rounding a weight that a mixture has shrunk
would use steps that no candidate has. (arXiv 2606.04063 writes it the other way round.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from featherweight.core.importance import Order
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.numerics import straight_through
from featherweight.core.slicing import reorder
from featherweight.train.decisions import Draw
from featherweight.train.grids import Grids
from featherweight.train.mixing import by_heads, head_prefixes, mixed, prefixes
from featherweight.train.next_token import mean_next_token_loss
from featherweight.train.space import Space, depends_on

_WIDE = 16  # bits of an input that is not rounded


def ordered(model: Model, order: Order, space: Space) -> Model:
    """The model with the parts that a space may drop in their order of importance."""
    searched = space.options
    return reorder(
        model,
        order.ffn if "ffn" in searched else None,
        order.groups if "groups" in searched else None,
        order.hidden if "hidden" in searched else None,
    )


class Supernet:
    """All candidates of a space over one set of pretrained weights.

    Args:
        model: the parent, unrounded.
        space: what may change.
        order: which parts go first.
        rank: of the low-rank correction of every matrix in every format; 0 = none.
        generator: draws the corrections.
        device: where it computes.
    """

    def __init__(
        self, model: Model, space: Space, order: Order, rank: int, generator: torch.Generator, device: str = "cpu"
    ) -> None:
        self.space, self.order, self.architecture = space, order, model.architecture
        self.model = ordered(model, order, space)
        self.module = self.model.module().to(device)
        self.epsilon = float(model.settings["rms_norm_eps"])
        self.device = device
        self.matrices = {
            name: Grids(self.model.tensor(name), self._formats(name), rank, generator)
            for name, entry in self.model.entries.items()
            if len(entry.shape) == 2
        }
        self.vectors = {name: self.model.tensor(name) for name in self.model.entries if name not in self.matrices}
        self._draw: Draw = {}
        self._active: torch.Tensor | None = None
        self._hooks = list(self._hook())

    def _formats(self, name: str) -> list[str]:
        unit = self.space.formats.get(name)
        return [] if unit is None else [str(kind) for kind in self.space.options[unit]]

    def parameters(self) -> list[torch.Tensor]:
        """The factors of all corrections."""
        return [factor for matrix in self.matrices.values() for factor in matrix.parameters()]

    def moved(self) -> None:
        """To be called after the corrections have changed."""
        for matrix in self.matrices.values():
            matrix.moved()

    def logits(self, ids: torch.Tensor, draw: Draw, corrections: str = "still") -> torch.Tensor:
        """What a mixture computes, [rows, tokens, vocabulary].

        Args:
            ids: tokens, [rows, tokens].
            draw: weights of every decision's options.
            corrections: "moving" with their gradients; "still" without; "none" leaves them out.
        """
        self._draw = draw
        weights = {name: each.to(self.device) for name, each in self._weights(draw, corrections)}
        result = torch.func.functional_call(self.module, weights, (ids.to(self.device),), {"use_cache": False})
        logits: torch.Tensor = result.logits
        return logits

    def loss(self, ids: torch.Tensor, draw: Draw, corrections: str = "still") -> torch.Tensor:
        """Mean next-token negative log-likelihood, nats."""
        return mean_next_token_loss(self.logits(ids[:, :-1], draw, corrections), ids)

    def _weights(self, draw: Draw, corrections: str) -> Iterator[tuple[str, torch.Tensor]]:
        lengths = self.lengths(draw)
        hidden = lengths.get("hidden")
        self._active = None if hidden is None else hidden.sum().to(self.device)
        for name, matrix in self.matrices.items():
            unit = self.space.formats.get(name)
            weight = matrix.mixture(None if unit is None else draw[unit], corrections)
            yield name, mixed(weight, *(lengths.get(axis) for axis in self.architecture.axes(name, 2)))
        for name, vector in self.vectors.items():
            axis = self.architecture.axes(name, 1)[0]
            # What a norm multiplies is masked by the matrices that read it; a bias writes by itself.
            yield name, mixed(vector, lengths.get(axis), None) if name.endswith(".bias") else vector

    def lengths(self, draw: Draw) -> dict[str, torch.Tensor]:
        """How much of every channel is there, by axis; axes that are not searched are left out."""
        a, searched = self.architecture, self.space.options
        found = {}
        for name in ("hidden", "ffn"):
            if name in searched:
                found[name] = draw[name] @ prefixes(searched[name], a.size(name))  # type: ignore[arg-type]
        if "groups" in searched or "head_dim" in searched:
            groups, within = torch.ones(a.kv_heads), torch.ones(a.head_dim)
            if "groups" in searched:
                groups = draw["groups"] @ prefixes(searched["groups"], a.kv_heads)  # type: ignore[arg-type]
            if "head_dim" in searched:
                within = draw["head_dim"] @ head_prefixes(searched["head_dim"], a.head_dim)  # type: ignore[arg-type]
            found["query"] = by_heads(groups, a.heads_a_group, within)
            found["kv"] = by_heads(groups, 1, within)
        for axis in {axis for axes in a.linear_axes.values() for axis in axes if "+" in axis}:
            if any(name in searched for name in depends_on(axis)):
                found[axis] = torch.cat([found[part] for part in axis.split("+")])
        return found

    def gate(self, block: int) -> torch.Tensor | None:
        """How much of a block is there under the present draw: 1[rank < number of blocks], weighted."""
        if "blocks" not in self.space.options:
            return None
        stays = torch.tensor([float(self.order.rank(block) < int(count)) for count in self.space.options["blocks"]])
        return (self._draw["blocks"] @ stays).to(self.device)

    def close(self) -> None:
        """Ends it: hooks and module hold each other, and its weights would wait for the garbage collector."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self) -> Iterator[Any]:
        norms = [name for name in self.vectors if name.endswith("norm.weight")]
        for name in norms:
            if self.architecture.axes(name, 1) == ("hidden",):
                yield self._module_of(name).register_forward_hook(self._norm)
        if "activations" in self.space.options:
            for name in self.architecture.linears():
                yield self._module_of(name).register_forward_pre_hook(self._round_input)
        for index, layer in enumerate(self.module.model.layers):
            yield layer.register_forward_hook(self._gated(index), with_kwargs=True)

    def _module_of(self, name: str) -> Any:
        return self.module.get_submodule(name.rpartition(".")[0])

    def _norm(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        """RMSNorm over the active channels: the module itself would divide by the padded width."""
        if self._active is None:
            return None
        values = inputs[0].float()
        square = values.square().sum(-1, keepdim=True) / self._active
        weight: torch.Tensor = self.architecture.norm_offset + module.weight
        return (values * torch.rsqrt(square + self.epsilon) * weight).to(output.dtype)

    def _gated(self, index: int) -> Any:
        def hook(module: Any, inputs: Any, named: Mapping[str, Any], output: Any) -> Any:
            gate = self.gate(index)
            if gate is None:
                return None
            before = inputs[0] if inputs else named["hidden_states"]
            if isinstance(output, tuple):
                return (gate * output[0] + (1 - gate) * before, *output[1:])
            return gate * output + (1 - gate) * before

        return hook

    def _round_input(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        options = [int(bits) for bits in self.space.options["activations"]]
        weights = self._draw["activations"].to(self.device)
        kinds = torch.stack([rounded_inputs(inputs[0], bits) for bits in options])
        return (torch.tensordot(weights, kinds, dims=1), *inputs[1:])


def rounded_inputs(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric rounding with one scale a token, gradient straight through; 16 bits leave the values as they are."""
    if bits >= _WIDE:
        return values
    most = 2 ** (bits - 1) - 1
    scale = values.detach().abs().amax(-1, keepdim=True).clamp(min=1e-12) / most
    return straight_through(values, (values / scale).round().clamp(-most - 1, most) * scale)
