"""What a layer audit found, as plain values for the record, the table and the charts, with the tests behind it.

Drift of a place (what a module reads or gives) is the mean total variation of its peepholes; of a layer's states it is
the mean relative error. Something has drifted when its drift is larger than that of a model which is as good as the
parent: the parent shaken by bf16 rounding. The bound is twice the largest draw's drift plus what such a mean exceeds by
chance in 5 % of the cases for all places together (t over documents, Bonferroni). Twice, because documents tell nothing
of how much one draw of the noise differs from another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.architecture import block_index
from featherweight.core.lazy import torch
from featherweight.measure.clustered import ClusteredMean, clustered_mean
from featherweight.measure.conformity import conformity
from featherweight.measure.layer_compare import LayerComparison, Place
from featherweight.measure.layers import macs
from featherweight.measure.restoration import Restoration
from featherweight.measure.state_drift import StateDrift

CHANCE = 0.05
TIMES = 2.0
"""Drift counts as such beyond so many times the noise."""
_NO_NOISE = ClusteredMean(0.0, 0.0, 0)
_DIGITS = 6
Facts = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """Drift at one place.

    Attributes:
        place: where.
        drift: mean total variation.
        noise: of the shaken parent, the mean of its draws.
        bound: what noise may reach by chance.
    """

    place: Place
    drift: ClusteredMean
    noise: float
    bound: float

    @property
    def drifted(self) -> bool:
        """Whether it is beyond noise."""
        return self.drift.mean > self.bound

    def to_dict(self) -> Facts:
        """Plain values."""
        module = self.place.module
        return {
            "module": module, "side": self.place.side, "block": block_index(f"{module}."),
            "drift": rounded(self.drift.mean), "interval": interval(self.drift),
            "noise": rounded(self.noise), "largest": float(self.place.variation.max()),
            "drifted": self.drifted,
        }  # fmt: skip


def found_drift(compared: LayerComparison) -> list[Found]:
    """Drift at every place, in the order of computation."""
    chance = CHANCE / max(len(compared.places), 1)
    return [
        Found(place, clustered_mean(place.variation, compared.units), *_noise(place.noise, compared.units, chance))
        for place in compared.places
    ]


def _noise(draws: Sequence[torch.Tensor], units: torch.Tensor, chance: float) -> tuple[float, float]:
    """The mean drift of noise, and what it may reach by chance: infinite where one document cannot tell."""
    means = [clustered_mean(draw, units) for draw in draws] or [_NO_NOISE]
    return sum(each.mean for each in means) / len(means), max(TIMES * each.mean + each.reach(chance) for each in means)


def state_facts(compared: LayerComparison) -> list[Facts]:
    """Drift of the states of every layer, and what each layer adds to it."""
    chance, before, facts = CHANCE / max(len(compared.child.states), 1), 0.0, []
    for name, found in compared.child.states.items():
        draws = [each.states[name] for each in compared.shaken if name in each.states]
        fact: Facts = {"name": name, "cka": rounded(found.cka), "drifted": False, "relative": None}
        if found.relative is not None:
            fact |= _relative(found, draws, compared.units, chance)
            fact["added"] = rounded(float(found.relative.mean()) - before)
            before = float(found.relative.mean())
        fact["local"] = None if found.local is None else rounded(float(found.local.mean()))
        facts.append(fact)
    return facts


def _relative(found: StateDrift, draws: Sequence[StateDrift], units: torch.Tensor, chance: float) -> Facts:
    assert found.relative is not None
    assert found.cosine is not None
    noise, bound = _noise([each.relative for each in draws if each.relative is not None], units, chance)
    mean = float(found.relative.mean())
    return {
        "relative": rounded(mean), "cosine": rounded(float(found.cosine.mean())),
        "noise": rounded(noise), "drifted": mean > bound,
    }  # fmt: skip


def largest_contribution(states: Sequence[Facts], restored: Restoration | None) -> Facts | None:
    """The layer that contributes most: by restoration where that was measured, else by what it adds to the drift.

    None where nothing is beyond noise.
    """
    if restored is not None:
        whole, gains = restored.whole.mean, restored.gains()
        name = max(gains, key=lambda each: gains[each].mean)
        return {
            "name": name, "by": "restoration", "value": rounded(gains[name].mean), "interval": interval(gains[name]),
            "share": rounded(gains[name].mean / whole) if whole else 0.0,
        }  # fmt: skip
    adding = [state for state in states if state["drifted"] and state["added"] > 0]
    if not adding:
        return None
    top = max(adding, key=lambda state: state["added"])
    return {"name": top["name"], "by": "added drift", "value": top["added"]}


def largest_own_error(states: Sequence[Facts]) -> Facts | None:
    """The layer that does most wrong with what the parent's layer reads; None where every layer does the same."""
    own = [state for state in states if state["local"]]
    if not own:
        return None
    top = max(own, key=lambda state: state["local"])
    return {"name": top["name"], "value": top["local"]}


def restoration_facts(restored: Restoration) -> Facts:
    """The divergence of the child and what each layer put back takes off it."""
    gains = {name: {"gain": rounded(each.mean), "interval": interval(each)} for name, each in restored.gains().items()}
    return {"divergence": rounded(restored.whole.mean), "interval": interval(restored.whole), "gains": gains}


def conformity_facts(compared: LayerComparison) -> Facts | None:
    """Mean conformity of both models' samples; None where the child lacks some of the modules."""
    holes = compared.peepholes
    if set(holes.holes) - set(compared.child.inputs):
        return None
    means = {}
    inputs = [place for place in compared.places if place.side == "input"]
    read = {"parent": [place.parent for place in inputs], "child": [place.child for place in inputs]}
    for name, seen in (("parent", compared.parent), ("child", compared.child)):
        scores = conformity(torch.stack(read[name], 1), holes.predicted(seen).labels, holes.protos)
        means[name] = rounded(float(scores.mean()))
    return {**means, "proto_samples": list(holes.protos.samples), "confident": list(holes.protos.confident)}


def conceptogram_facts(compared: LayerComparison) -> Facts:
    """Mean peepholes of both models at every place, for the samples of each label, and the label that drifted most."""
    places = compared.places
    by_label: Facts = {}
    drifts: dict[str, float] = {}
    for index, label in enumerate(compared.peepholes.names):
        own = compared.targets == index
        if places and bool(own.any()):
            parent, child = (
                torch.stack([each[own].mean(0) for each in side])
                for side in ([place.parent for place in places], [place.child for place in places])
            )
            by_label[label] = {"parent": _table(parent), "child": _table(child), "samples": int(own.sum())}
            drifts[label] = float(torch.stack([place.variation[own].mean() for place in places]).mean())
    worst = max(drifts, key=lambda label: drifts[label], default=None)
    return {"rows": [f"{place.module} {place.side}" for place in places], "labels": by_label, "worst": worst}


def cost_facts(compared: LayerComparison, parameters: int | None) -> Facts:
    """Multiplications a token of looking at what modules read, and as a share of the model's own."""
    total = sum(macs(compared.peepholes).values())
    return {"macs": total, "share": None if parameters is None else rounded(total / parameters)}


def left_out(compared: LayerComparison) -> Iterator[str]:
    """What a person should know about what could not be compared."""
    missing = compared.child.missing
    if "all" in missing:
        yield f"the child has {missing['all']}: hidden states were aligned by CKA, peepholes are left out"
    elif missing:
        name, why = next(iter(missing.items()))
        yield f"{len(missing)} modules have another shape and are left out, such as {name}: {why}"
    if any(each.relative is None for each in compared.child.states.values()):
        yield "hidden states have another width: only CKA compares them"


def interval(mean: ClusteredMean) -> list[float] | None:
    """The 95 % interval; None where one document cannot tell."""
    low, high = mean.interval(CHANCE)
    return [rounded(low), rounded(high)] if math.isfinite(high) else None


def rounded(value: float) -> float:
    """To six digits."""
    return round(value, _DIGITS)


def _table(values: torch.Tensor) -> list[list[float]]:
    return [[round(each, 4) for each in row] for row in values.tolist()]
