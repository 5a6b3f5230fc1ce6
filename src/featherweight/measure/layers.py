"""The layer audit: what each layer of a model makes of some samples, and how far a child's layers are from it.

Bases, clusters, posteriors and proto-classes are fitted on the parent and on nothing else; both models are then looked
at through them, at the same positions of other text. A module is probed twice. What it *reads* shows damage of
everything before it. What it *gives*, taken back through its own singular vectors, shows damage of itself: a corevector
of inputs is blind to the layer that it belongs to, and the last layer would never be covered. With the final hidden
states and what is predicted from them nothing of a model is out of sight.

This file fits and compares what was seen; seeing is the business of `layer_walk` (language models, block by block) and
of `module_probes` (any `torch.nn` module).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from featherweight.core.lazy import torch
from featherweight.measure.clusters import Kind
from featherweight.measure.conceptogram import Peephole, conceptogram, fit_peephole
from featherweight.measure.conformity import CONFIDENT, Prediction, ProtoClasses, predicted, proto_classes
from featherweight.measure.corevectors import Basis, random_basis, svd_basis
from featherweight.measure.state_drift import StateDrift

Side = Literal["input", "output"]
PREDICTION = "prediction"
"""The last row of a comparison: what the model itself predicts, where that is a distribution over the labels."""


@dataclass(frozen=True)
class LayerSettings:
    """How layers are looked at.

    Attributes:
        modules: patterns of module names, such as "*.mlp.down_proj"; () = all that is useful (see the subject).
        rank: corevectors' length.
        clusters: of each module.
        kind: of the clusters.
        scaled: multiply corevectors by the singular values, so that directions count by what they do to the output.
        directions: "svd"; "random" is the control, and shows no outputs.
        samples: at most so many make the clusters.
        confident: predictions surer than this make the proto-classes.
    """

    modules: tuple[str, ...] = ()
    rank: int = 32
    clusters: int = 20
    kind: Kind = "mixture"
    scaled: bool = False
    directions: Literal["svd", "random"] = "svd"
    samples: int = 4096
    confident: float = CONFIDENT

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "modules": list(self.modules)}

    def basis(self, layer: torch.nn.Module, generator: torch.Generator) -> Basis:
        """The directions that a layer is looked at in."""
        if self.directions == "random":
            return random_basis(layer, self.rank, generator)
        return svd_basis(layer, self.rank)


@dataclass(frozen=True)
class Seen:
    """What was seen of a model on some samples.

    Attributes:
        inputs: corevectors of what each module reads, float32 [samples, rank], in the order of computation.
        outputs: the same taken back from what it gives; empty where nobody asked.
        prediction: the model's distribution over the labels, float64 [samples, labels]; None = it gives none.
        states: how far each layer's states are from a reference's; empty without one.
        missing: modules that could not be compared, with the reason.
    """

    inputs: Mapping[str, torch.Tensor]
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    prediction: torch.Tensor | None = None
    states: Mapping[str, StateDrift] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peepholes:
    """A parent's layers, ready to look through.

    Attributes:
        names: of the labels.
        bases: directions of each module.
        holes: peephole of each module, in the order of computation.
        protos: the usual story of each label.
        settings: how they were made.
    """

    names: tuple[str, ...]
    bases: Mapping[str, Basis]
    holes: Mapping[str, Peephole]
    protos: ProtoClasses
    settings: LayerSettings

    def conceptograms(self, seen: Seen) -> torch.Tensor:
        """Of what modules read, float64 [samples, modules, labels]."""
        return conceptogram(self.holes, seen.inputs)

    def predicted(self, seen: Seen) -> Prediction:
        """What the model says of the samples; where it says nothing about the labels, what its last peephole says."""
        return predicted(_says(seen, self.holes))

    def rows(self, seen: Seen) -> Iterator[tuple[str, Side | Literal["prediction"], torch.Tensor]]:
        """Every module's input and output and the prediction in the order of computation: [samples, labels] each."""
        for name, hole in self.holes.items():
            for side, found in (("input", seen.inputs), ("output", seen.outputs)):
                if name in found:
                    yield name, side, hole(found[name])  # type: ignore[misc]
        if seen.prediction is not None:
            yield PREDICTION, "prediction", seen.prediction


def _scale(basis: Basis, settings: LayerSettings, width: int) -> torch.Tensor:
    """What corevectors are multiplied by; of a grid each direction stands there several times."""
    singular = basis.singular if settings.scaled else torch.ones(basis.rank)
    return singular.repeat_interleave(width // basis.rank)


def _says(seen: Seen, holes: Mapping[str, Peephole]) -> torch.Tensor:
    if seen.prediction is not None:
        return seen.prediction
    last = list(holes)[-1]
    return holes[last](seen.inputs[last])


def fit_peepholes(
    seen: Seen,
    bases: Mapping[str, Basis],
    targets: torch.Tensor,
    names: tuple[str, ...],
    settings: LayerSettings,
    generator: Callable[[str], torch.Generator],
) -> Peepholes:
    """Peepholes and proto-classes from what was seen of the parent.

    Args:
        seen: inputs of every module, on calibration samples.
        bases: directions that they were taken in.
        targets: label of each sample, int64 [samples].
        names: of the labels.
        settings: how.
        generator: a generator of random numbers for each purpose.
    """
    some = spaced(len(targets), settings.samples)
    holes = {
        name: fit_peephole(
            found[some], targets[some], len(names), settings.clusters, settings.kind,
            _scale(bases[name], settings, found.shape[1]), generator(f"clusters of {name}"),
        )
        for name, found in seen.inputs.items()
    }  # fmt: skip
    prediction = predicted(_says(seen, holes))
    protos = proto_classes(conceptogram(holes, seen.inputs), targets, prediction, settings.confident)
    return Peepholes(names, bases, holes, protos, settings)


def spaced(count: int, most: int) -> torch.Tensor:
    """At most `most` of `count` places, evenly spaced."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).long()


def macs(peepholes: Peepholes) -> dict[str, int]:
    """Multiplications a token that looking through each peephole costs: q (inputs + 1) + 2 q k + k labels."""
    found = {}
    for name, hole in peepholes.holes.items():
        basis, clusters = peepholes.bases[name], len(hole.clusters)
        columns = basis.right.shape[1] + 1
        found[name] = basis.rank * columns + 2 * basis.rank * clusters + clusters * len(peepholes.names)
    return found
