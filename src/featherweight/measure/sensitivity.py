"""How much each tensor's rounding costs in each format: the expected KL divergence, measured once, used many times.

To second order, rounding W to W + D costs KL = 1/2 sum_o G_o (D A D^T)_oo a token, with A the second moment of the
linear's input and G_o the mean squared gradient of the log-likelihood at output o, labels drawn from the model itself
(the Fisher information with its two factors taken independent, arXiv 1503.05671). Errors of different tensors add up.
Rounding is that of the quantizer to come: with error feedback, fitted on one half of the tokens, judged on the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featherweight.core.architecture import EMBEDDING, HEAD, Reads
from featherweight.core.data import TokenSet
from featherweight.core.formats import get
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.moments import Moment, importance_of
from featherweight.core.rounding import Feedback, round_with_feedback
from featherweight.core.run import Run
from featherweight.core.stream import Visitor, head_weight, stream

_SAMPLED_ROWS = 48  # of each matrix; rows are rounded independently, so a sample estimates their sum
_FISHER_ROWS = 2  # token rows a backward pass

Sensitivity = dict[str, dict[str, float]]
"""Expected KL divergence in nats a token, by parameter name and format."""


def sensitivities(
    model: Model, tokens: TokenSet, formats: Sequence[str], run: Run, roundings: Sequence[str] = ("feedback",)
) -> dict[str, Sensitivity]:
    """For each way of rounding the table of every quantizable tensor and every format that fits it.

    Tables are kept in the run's store; those that are missing are measured in one walk.

    Args:
        model: the unrounded model.
        tokens: calibration rows.
        formats: names of the formats to try.
        run: seed, device, progress and store.
        roundings: "feedback", with error feedback as GPTQ will; "nearest", to nearest.
    """

    def facts(rounding: str) -> dict[str, Any]:
        return {
            "model": model.fingerprint, "tokens": tokens.digest, "formats": sorted(formats), "rounding": rounding,
            "seed": run.seed,
        }  # fmt: skip

    missing = [each for each in roundings if not run.store.has("sensitivity", facts(each))]
    measured = functools.cache(lambda: _measure(model, tokens, formats, run, missing))

    def table(rounding: str) -> Sensitivity:
        return measured()[rounding]

    return {each: run.store.json("sensitivity", facts(each), functools.partial(table, each)) for each in roundings}


def fisher(model: Model, tokens: TokenSet, run: Run) -> dict[str, torch.Tensor]:
    """Mean squared gradient at every output of every linear and of the head, float32 [outputs] by parameter name.

    The whole model and the graph of two token rows are in memory.
    """
    facts = {"model": model.fingerprint, "tokens": tokens.digest, "seed": run.seed}
    return run.store.tensors("fisher", facts, lambda: _fisher(model, tokens, run))


def _fisher(model: Model, tokens: TokenSet, run: Run) -> dict[str, torch.Tensor]:
    module = model.module().to(run.device)
    sums: dict[str, torch.Tensor] = {}
    names = [name.removesuffix(".weight") for name in model.architecture.linears()]
    for name in names:
        module.get_submodule(name).register_forward_hook(_gradient_hook(sums, f"{name}.weight"))
    head = EMBEDDING if model.architecture.tied else HEAD
    generator = run.generator("fisher")
    batches = tokens.ids.split(_FISHER_ROWS)
    with run.progress.track("measuring where errors matter", len(batches)) as advance:
        for ids in batches:
            embedded = module.get_input_embeddings()(ids.to(run.device)).requires_grad_(True)
            logits = module(inputs_embeds=embedded, use_cache=False).logits.flatten(0, 1).float()
            probabilities = logits.detach().softmax(-1)
            labels = torch.multinomial(probabilities.cpu(), 1, generator=generator)[:, 0].to(logits.device)
            torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
            sums[head] = sums.get(head, 0) + (probabilities * (1 - probabilities)).sum(0)
            advance()
    return {name: (total / tokens.count).cpu() for name, total in sums.items()}


def _gradient_hook(sums: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    def add(gradient: torch.Tensor) -> None:
        sums[name] = sums.get(name, 0) + gradient.flatten(0, 1).square().sum(0)

    def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.register_hook(add)

    return hook


def _measure(
    model: Model, tokens: TokenSet, formats: Sequence[str], run: Run, roundings: Sequence[str]
) -> dict[str, Sensitivity]:
    gradients = fisher(model, tokens.spread(max(4, len(tokens.domains) // 3)), run)
    visitor = _Errors(model, gradients, formats, roundings)
    with run.progress.track("measuring each tensor in each format", model.architecture.blocks) as advance:
        hidden = stream(model, tokens.ids, visitor, device=run.device, advance=advance)
    visitor.measure(hidden, {EMBEDDING if model.architecture.tied else HEAD: head_weight(model)})
    if not model.architecture.tied:
        errors = _embedding_errors(model, tokens, formats)
        for table in visitor.tables.values():
            table[EMBEDDING] = errors
    return visitor.tables


def _embedding_errors(model: Model, tokens: TokenSet, formats: Sequence[str]) -> dict[str, float]:
    """An untied embedding has no Hessian: its relative squared error on the tokens seen stands for its divergence."""
    weight = model.tensor(EMBEDDING)
    seen = weight[tokens.ids.flatten().unique()]
    total = seen.square().sum()
    return {
        name: float((get(name).fit(seen).dequantize() - seen).square().sum() / total)
        for name in formats
        if get(name).accepts(tuple(weight.shape))
    }


class _Errors(Visitor):
    """Rounds a sample of the rows of every linear in every format and adds up what that costs.

    Attributes:
        tables: expected divergence of each matrix in each format, by way of rounding.
    """

    def __init__(
        self, model: Model, gradients: Mapping[str, torch.Tensor], formats: Sequence[str], roundings: Sequence[str]
    ) -> None:
        self.model, self.gradients, self.formats = model, gradients, formats
        self.tables: dict[str, Sensitivity] = {each: {} for each in roundings}

    def enter(self, index: int, block: torch.nn.Module) -> None:
        for read in self.model.architecture.reads:
            block.get_submodule(read.linears[0]).register_forward_pre_hook(self._hook(index, read))

    def _hook(self, index: int, read: Reads) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            names = [self.model.architecture.linear(index, module) for module in read.linears]
            self.measure(inputs[0], {name: self.model.tensor(name) for name in names})

        return hook

    def measure(self, inputs: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> None:
        """Adds the expected divergence of matrices to the tables.

        Args:
            inputs: what the matrices read, [rows, tokens, columns].
            weights: matrices [outputs, columns] by name.
        """
        fitted, judged = (Moment().add(half).mean() for half in (inputs[0::2], inputs[1::2]))
        samples = {name: _sample(weight, self.gradients[name]) for name, weight in weights.items()}
        pairs = {
            f"{name} {kind}": (name, kind)
            for name, weight in weights.items()
            for kind in self.formats
            if get(kind).accepts(tuple(weight.shape))
        }
        for rounding, table in self.tables.items():
            rounded = _round({key: (samples[name][0], kind) for key, (name, kind) in pairs.items()}, fitted, rounding)
            table.update({name: {} for name in weights})
            for key, (name, kind) in pairs.items():
                rows, strength = samples[name]
                error = rounded[key] - rows
                table[name][kind] = float(0.5 * (strength * ((error @ judged) * error).sum(1)).sum())


def _round(
    wanted: Mapping[str, tuple[torch.Tensor, str]], hessian: torch.Tensor, rounding: str
) -> dict[str, torch.Tensor]:
    if not wanted:  # none of the formats fits any of these matrices
        return {}
    if rounding == "nearest":
        importance = importance_of(hessian.diagonal())
        return {key: get(kind).fit(rows, importance).dequantize() for key, (rows, kind) in wanted.items()}
    weights = {key: rows for key, (rows, _) in wanted.items()}
    kinds = {key: kind for key, (_, kind) in wanted.items()}
    packed = round_with_feedback(weights, kinds, hessian, Feedback())
    return {key: each.dequantize() for key, each in packed.items()}


def _sample(weight: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Evenly spaced rows, and how much the squared error of each counts so that their sum stands for all rows.

    A vocabulary's gradient sits in few rows, so rows are drawn where it is largest as well.
    """
    count = weight.shape[0]
    if count <= _SAMPLED_ROWS:
        return weight, gradient
    if count > 16 * _SAMPLED_ROWS:
        order = torch.argsort(gradient, descending=True, stable=True)
        top, rest = order[: 4 * _SAMPLED_ROWS], order[4 * _SAMPLED_ROWS :]
        spaced = rest[:: max(1, len(rest) // (4 * _SAMPLED_ROWS))]
        share = gradient[rest].sum() / gradient[spaced].sum().clamp(min=1e-30)
        return weight[torch.cat([top, spaced])], torch.cat([gradient[top], gradient[spaced] * share])
    spaced = torch.arange(0, count, count // _SAMPLED_ROWS)
    return weight[spaced], gradient[spaced] * (gradient.sum() / gradient[spaced].sum().clamp(min=1e-30))
