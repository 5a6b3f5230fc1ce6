"""One comparison of a child's layers with its parent's, ready to be judged: fit, look, and the noise to judge by.

Noise is the parent with its weights shaken by bf16's largest rounding error (`noise`): a model that nobody would call
damaged. Drift counts where it is larger than that, sample by sample.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.measure.conceptogram import total_variation
from featherweight.measure.layer_walk import StateLog, look, look_first
from featherweight.measure.layers import LayerSettings, Peepholes, Seen, fit_peepholes
from featherweight.measure.module_probes import ActivationLog, Pool, look_at, look_first_at
from featherweight.measure.noise import shaken, shaken_module
from featherweight.measure.probe_rows import ProbeRows

DRAWS = 2


@dataclass(frozen=True)
class Place:
    """One place of both models: what a module reads or gives, or the prediction.

    Attributes:
        module: its name, or "prediction".
        side: "input", "output" or "prediction".
        parent, child: peepholes of the samples, float64 [samples, labels].
        noise: total variation of each draw of the shaken parent, float64 [samples] each.
    """

    module: str
    side: str
    parent: torch.Tensor
    child: torch.Tensor
    noise: Sequence[torch.Tensor]

    @functools.cached_property
    def variation(self) -> torch.Tensor:
        """Total variation of the child, float64 [samples]."""
        return total_variation(self.parent, self.child)


@dataclass(frozen=True)
class LayerComparison:
    """A child's layers against its parent's, at the same samples.

    Attributes:
        peepholes: of the parent.
        parent, child: what was seen of each.
        targets: right label of each sample, int64 [samples].
        units: document of each sample, int64 [samples].
        shaken: what was seen of the shaken parent, one a draw.
    """

    peepholes: Peepholes
    parent: Seen
    child: Seen
    targets: torch.Tensor
    units: torch.Tensor
    shaken: Sequence[Seen] = ()

    @functools.cached_property
    def places(self) -> list[Place]:
        """Every place that both models have, in the order of computation."""
        theirs = {(name, side): found for name, side, found in self.peepholes.rows(self.child)}
        draws = [{(name, side): found for name, side, found in self.peepholes.rows(each)} for each in self.shaken]
        found = []
        for name, side, own in self.peepholes.rows(self.parent):
            if (name, side) in theirs:
                noise = [total_variation(own, draw[name, side]) for draw in draws]
                found.append(Place(name, side, own, theirs[name, side], noise))
        return found


def compare_layers(
    parent: Model,
    child: Model,
    fit: ProbeRows,
    audit: ProbeRows,
    run: Run,
    settings: LayerSettings | None = None,
    draws: int = DRAWS,
) -> LayerComparison:
    """Compares two language models, block by block.

    Args:
        parent: what bases, clusters, posteriors and proto-classes are fitted on.
        child: the model in question.
        fit: calibration rows, for the parent alone.
        audit: other rows, for both.
        run: seed, device and progress.
        settings: how layers are looked at.
        draws: of noise.
    """
    settings, log = settings or LayerSettings(), StateLog()
    bases, first = look_first(parent, fit, settings, run)
    peepholes = fit_peepholes(first, bases, fit.targets, fit.names, settings, run.generator)
    before = look(parent, audit, bases, run, log=log, label="looking at the parent")
    after = look(child, audit, bases, run, reference=log, label="looking at the child")
    shaking = [
        look(shaken(parent, run.seed + draw), audit, bases, run, reference=log, label="looking at noise")
        for draw in range(draws)
    ]
    return LayerComparison(peepholes, before, after, audit.targets, audit.sample_units, shaking)


def compare_modules(
    parent: torch.nn.Module,
    child: torch.nn.Module,
    fit: tuple[torch.Tensor, torch.Tensor],
    audit: tuple[torch.Tensor, torch.Tensor],
    names: tuple[str, ...],
    run: Run,
    settings: LayerSettings | None = None,
    pool: Pool = "mean",
    draws: int = DRAWS,
) -> LayerComparison:
    """The same for two `torch.nn` modules that give logits over the labels.

    Args:
        parent: what everything is fitted on.
        child: the module in question.
        fit: inputs [rows, ...] and targets int64 [rows], for the parent alone.
        audit: others, for both.
        names: of the labels.
        run: seed.
        settings: how layers are looked at.
        pool: what becomes of the positions of convolutions.
        draws: of noise.
    """
    settings, log = settings or LayerSettings(), ActivationLog()
    bases, first = look_first_at(parent, fit[0], settings, run, pool)
    peepholes = fit_peepholes(first, bases, fit[1], names, settings, run.generator)
    before = look_at(parent, audit[0], bases, pool, log=log)
    after = look_at(child, audit[0], bases, pool, reference=log)
    shaking = [
        look_at(shaken_module(parent, run.seed + draw), audit[0], bases, pool, reference=log) for draw in range(draws)
    ]
    return LayerComparison(peepholes, before, after, audit[1], torch.arange(len(audit[1])), shaking)
