"""Where one LoRA adapter would learn most at first: the energy of every linear's initial adapter gradient.

After PAGE (arXiv 2605.06183), whose exact normalisation could not be had. At the start B = 0, so dL/dA = 0 and
dL/dB = s G A^T with G = dL/dW. Per sample, and averaged over samples (a batch's mean gradient is another, noisier
thing):

    projected   ||s G A^T||^2 with the A at hand
    expected    its mean over random A, s^2 rank variance ||G||^2
    fisher      ||G||^2

With A of one variance everywhere ("gaussian", PEFT's 1/rank^2) all linears are on equal terms; with PEFT's default
("kaiming", variance 1/(3 in)) narrow inputs gain. The highest module is mostly a down projection that
reads a massive activation, which depends on the first token: probe with the template that is trained with. The score
says where the first steps go, not which adapter is best in the end, and it changes when the same function is written
with other weights: of SmolLM2-135M as it is packaged block 11's down projection is first, of the default model, whose
channels are equalised, block 0's attention output.

G is never formed: ||dy^T x||^2 is the sum over pairs of tokens of (x x^T) * (dy dy^T). The model is left as it was.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from featherweight.core.batch import Batch
from featherweight.core.errors import DataError, RecipeError, nearest
from featherweight.core.lazy import torch
from featherweight.train.next_token import next_token_loss

Score = Literal["projected", "expected", "fisher"]
Start = Literal["gaussian", "kaiming"]


@dataclass(frozen=True)
class Placement:
    """The score of every candidate.

    Attributes:
        scores: by module name, in the order of the model.
        score: which of the three it is.
        start: how A is drawn.
        rank, alpha: of the adapter that is thought of.
        samples: rows that were read.
        predictions: that counted in them.
    """

    scores: Mapping[str, float]
    score: Score
    start: Start
    rank: int
    alpha: float
    samples: int
    predictions: int

    @property
    def ranked(self) -> list[str]:
        """Candidates, highest first; of equals the one that comes first in the model."""
        return sorted(self.scores, key=lambda module: -self.scores[module])

    @property
    def best(self) -> str:
        """The highest one."""
        return self.ranked[0]

    def share(self, module: str) -> float:
        """A candidate's share of the sum of all scores."""
        total = sum(self.scores.values())
        return self.scores[module] / total if total else 0.0


def anchored(module: str) -> str:
    """PEFT's `target_modules` for exactly one module."""
    return f"^{re.escape(module)}$"


def linears(model: Any) -> list[str]:
    """Names of all linear layers but the head."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found = model.named_modules()
    return [name for name, each in found if isinstance(each, torch.nn.Linear | Conv1D) and each is not head]


def placement(
    model: Any,
    batch: Batch,
    score: Score = "expected",
    start: Start = "gaussian",
    rank: int = 16,
    alpha: float = 16,
    candidates: Sequence[str] = (),
    factors: Mapping[str, torch.Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Placement:
    """The score of each candidate, one forward and backward pass a row.

    Args:
        model: a causal language model of transformers; nothing of it is changed.
        batch: rows on the model's device, each a sample, with what is not trained masked.
        score: which quantity.
        start: how A is drawn.
        rank: of the adapter.
        alpha: of the adapter; its scale is alpha / rank.
        candidates: module names; () = all linears but the head.
        factors: A by module, [rank, in], for "projected"; None = drawn.
        generator: for drawing A.

    Raises:
        DataError: a row has nothing that counts.
        RecipeError: a candidate is no linear layer of the model.
    """
    names = list(candidates) or linears(model)
    layers = _layers(model, names)
    _require_trainable(batch)
    starts = dict(factors) if factors is not None else {}
    if score == "projected" and factors is None:
        chosen = generator or torch.Generator().manual_seed(0)
        starts = {name: drawn_start(_inputs(layer), rank, start, chosen) for name, layer in layers.items()}
    factor = {name: _factor(score, start, rank, alpha, _inputs(layer)) for name, layer in layers.items()}
    scores = dict.fromkeys(names, 0.0)
    with _frozen(model), _Probe(layers, starts if score == "projected" else {}) as probe:
        for row in range(len(batch.ids)):
            _sample_loss(model, _row(batch, row)).backward()
            for name, energy in probe.energies().items():
                scores[name] += factor[name] * energy / len(batch.ids)
    return Placement(scores, score, start, rank, alpha, len(batch.ids), batch.trainable)


def _layers(model: Any, names: Sequence[str]) -> dict[str, Any]:
    known = linears(model)
    for name in names:
        if name not in known:
            mend = nearest(name, known) or "give full names, as named_modules() has them"
            raise RecipeError(f"candidate {name!r}", "is no linear layer of the model's blocks", mend)
    modules = dict(model.named_modules())
    return {name: modules[name] for name in names}


def _inputs(layer: Any) -> int:
    return int(layer.in_features if isinstance(layer, torch.nn.Linear) else layer.weight.shape[0])


def _require_trainable(batch: Batch) -> None:
    for row in range(len(batch.ids)):
        if not _row(batch, row).trainable:
            raise DataError(f"sample {row + 1}", "has no token that is trained on", "leave it out, or give its answer")


def _row(batch: Batch, row: int) -> Batch:
    """One row without its padding."""
    parts = (batch.ids, batch.labels, batch.positions, batch.segments)
    return Batch(*(each[row : row + 1, batch.segments[row] >= 0] for each in parts))


def _variance(start: Start, rank: int, inputs: int) -> float:
    return 1 / rank**2 if start == "gaussian" else 1 / (3 * inputs)


def drawn_start(inputs: int, rank: int, start: Start, generator: torch.Generator) -> torch.Tensor:
    """A as PEFT draws it, [rank, in]."""
    if start == "gaussian":
        return torch.randn(rank, inputs, generator=generator) / rank
    uniform: torch.Tensor = (2 * torch.rand(rank, inputs, generator=generator) - 1) * inputs**-0.5
    return uniform


def _factor(score: Score, start: Start, rank: int, alpha: float, inputs: int) -> float:
    """What the squared norm that the probe measures is multiplied by."""
    if score == "fisher":
        return 1.0
    scale = (alpha / rank) ** 2
    return scale if score == "projected" else scale * rank * _variance(start, rank, inputs)


def _sample_loss(model: Any, batch: Batch) -> torch.Tensor:
    total, count = next_token_loss(model, batch)
    return total / count


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """The model in evaluation mode with gradients of activations only; everything is as before afterwards."""
    training = {each: each.training for each in model.modules()}
    trained = {each: each.requires_grad for each in model.parameters()}
    with ExitStack() as opened:
        opened.enter_context(torch.random.fork_rng(enabled=True))
        opened.enter_context(torch.enable_grad())
        opened.callback(_restore, training, trained)
        model.eval().requires_grad_(False)
        hook = model.get_input_embeddings().register_forward_hook(lambda *given: given[2].requires_grad_(True))
        opened.callback(hook.remove)
        yield


def _restore(training: Mapping[Any, bool], trained: Mapping[Any, bool]) -> None:
    for module, was in training.items():
        module.training = was
    for parameter, required in trained.items():
        parameter.requires_grad_(required)


class _Probe:
    """Hooks on layers that measure, pass by pass, the squared norm of dL/dW, or of dL/dW A^T where A is given."""

    def __init__(self, layers: Mapping[str, Any], starts: Mapping[str, torch.Tensor]) -> None:
        self._layers, self._starts = layers, starts
        self._inputs: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._pairs: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        self._energies: dict[str, float] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> _Probe:
        for name, layer in self._layers.items():
            self._hooks.append(layer.register_forward_hook(self._forward(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def energies(self) -> dict[str, float]:
        """Of the last pass; a layer that the loss did not depend on has none."""
        found, self._energies = self._energies, {}
        self._inputs.clear()
        self._pairs.clear()
        return found

    def _forward(self, name: str) -> Any:
        def hook(_: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._inputs[name].append(given[0].detach().flatten(0, -2))
            call = len(self._inputs[name]) - 1
            output.register_hook(lambda gradient: self._backward(name, call, gradient.detach().flatten(0, -2)))

        return hook

    def _backward(self, name: str, call: int, gradient: torch.Tensor) -> None:
        """A layer that is called several times in a pass has one gradient: its calls count as more tokens."""
        self._pairs[name].append((self._inputs[name][call], gradient))
        if len(self._pairs[name]) == len(self._inputs[name]):
            inputs, gradients = (torch.cat(each) for each in zip(*self._pairs.pop(name), strict=True))
            self._energies[name] = _energy(inputs.float(), gradients.float(), self._starts.get(name))


def _energy(inputs: torch.Tensor, gradients: torch.Tensor, start: torch.Tensor | None) -> float:
    """||gradients^T inputs||^2, or ||gradients^T (inputs start^T)||^2; [tokens, in], [tokens, out], [rank, in]."""
    if start is not None:
        return float((gradients.T @ (inputs @ start.T.to(inputs))).double().square().sum())
    return float(((inputs @ inputs.T).double() * (gradients @ gradients.T).double()).sum())
