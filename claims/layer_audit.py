"""The layer audit on handwritten digits and a perceptron. `python -m claims.layer_audit`.

Reliability: does the conformity score tell right predictions from wrong ones better than the largest softmax
probability does, on clean pictures and under pixel noise? Judged by 1 - AUROC, bootstrap over test pictures (noise
draws of a picture stay together), the mean of five networks. Controls: random directions instead of singular vectors;
clusters whose labels were shuffled.

Compression: drift of the conceptograms of a network whose weights were rounded to 8, 4, 3 and 2 bits, and of one with
bf16 noise. Localisation: one layer is rounded to 2 bits; is the damage first seen where it must be?
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch

from claims.digits import pictures, train
from claims.experiment import Experiment, Statement
from claims.reliability import Reliability
from featherweight.core.run import Run
from featherweight.measure.conceptogram import empirical_posterior
from featherweight.measure.conformity import conformity, proto_classes
from featherweight.measure.layer_compare import LayerComparison
from featherweight.measure.layers import LayerSettings, Peepholes, fit_peepholes
from featherweight.measure.module_probes import ActivationLog, look_at, look_first_at
from featherweight.measure.noise import shaken_module

CLAIM = (
    "Clusters of the layers' projected inputs tell how reliable a prediction is, and which layer a damage is in "
    "(arXiv 2604.08424)."
)
SEEDS, WIDTHS, EPOCHS = (0, 1, 2, 3, 4), (64, 64, 48, 32, 10), 30
SETTINGS = LayerSettings(rank=12, clusters=20)
LEVELS, DRAWS = (0.0, 0.2, 0.35), 4
BITS = (8, 4, 3, 2)
NAMES = tuple(map(str, range(10)))
TRUE, RANDOM, SHUFFLED, SOFTMAX = "conformity", "random directions", "shuffled labels", "max-softmax"


def perceptron(seed: int) -> torch.nn.Sequential:
    """Trained, 64-64-48-32-10 with ReLU."""
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for first, second in itertools.pairwise(WIDTHS):
        layers += [torch.nn.Linear(first, second), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    train(network, EPOCHS, seed)
    return network.eval()


def fitted(network: torch.nn.Module, settings: LayerSettings, seed: int) -> Peepholes:
    """Peepholes of a network, from its training pictures."""
    inputs, labels, _, _ = pictures()
    run = Run(seed=seed)
    bases, seen = look_first_at(network, inputs, settings, run)
    return fit_peepholes(seen, bases, labels, NAMES, settings, run.generator)


def shuffled(holes: Peepholes, network: torch.nn.Module, seed: int) -> Peepholes:
    """The control: the same clusters, whose samples bear labels in another order."""
    inputs, labels, _, _ = pictures()
    seen = look_at(network, inputs, holes.bases)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    changed = {}
    for name, hole in holes.holes.items():
        nearest = hole.clusters.responsibilities(seen.inputs[name].double() * hole.scale).argmax(1)
        posterior = empirical_posterior(nearest, labels[order], len(hole.clusters), len(NAMES))
        changed[name] = dataclasses.replace(hole, posterior=posterior)
    found = dataclasses.replace(holes, holes=changed)
    protos = proto_classes(found.conceptograms(seen), labels, found.predicted(seen))
    return dataclasses.replace(found, protos=protos)


def measure_reliability(
    result: Reliability, network: torch.nn.Module, ways: Mapping[str, Peepholes], seed: int
) -> None:
    """Adds a network's scores at every level of noise."""
    _, _, inputs, labels = pictures()
    for level in LEVELS:
        generator = torch.Generator().manual_seed(seed)
        draws = DRAWS if level else 1
        noisy = torch.cat([inputs + level * torch.randn(inputs.shape, generator=generator) for _ in range(draws)])
        scores = {}
        for name, holes in ways.items():
            seen = look_at(network, noisy, holes.bases)
            says = holes.predicted(seen)
            scores[name] = conformity(holes.conceptograms(seen), says.labels, holes.protos)
            scores[SOFTMAX] = says.confidence
            right = says.labels == labels.repeat(draws)
        result.add(f"noise {level:g}", scores, right, torch.arange(len(labels)).repeat(draws))


def rounded(network: torch.nn.Module, bits: int, only: str = "") -> Any:
    """A copy with weights rounded to nearest, one scale a row; of one layer, or of all."""
    child = copy.deepcopy(network)
    most = 2 ** (bits - 1)
    with torch.no_grad():
        for name, layer in child.named_modules():
            if isinstance(layer, torch.nn.Linear) and only in ("", name):
                scale = layer.weight.abs().amax(1, keepdim=True) / max(most - 1, 1)
                layer.weight.copy_((layer.weight / scale).round().clamp(-most, most - 1) * scale)
    return child


def compared(network: torch.nn.Module, child: torch.nn.Module, holes: Peepholes) -> LayerComparison:
    """A child against its parent on the test pictures."""
    _, _, inputs, labels = pictures()
    log = ActivationLog()
    parent = look_at(network, inputs, holes.bases, log=log)
    return LayerComparison(
        holes, parent, look_at(child, inputs, holes.bases, reference=log), labels, torch.arange(len(labels))
    )


def measure_compression(drift: Experiment, network: torch.nn.Module, ways: Mapping[str, Peepholes], seed: int) -> Any:
    """Adds the mean drift over all places of every test picture; returns drift by layer and accuracy."""
    _, _, inputs, labels = pictures()
    children = {"bf16 noise": shaken_module(network, seed), **{f"{bits} bits": rounded(network, bits) for bits in BITS}}
    facts: dict[str, Any] = {}
    for name, child in children.items():
        for way in (TRUE, SHUFFLED):
            places = compared(network, child, ways[way]).places
            label = name if way == TRUE else f"{name}, {way}"
            rows = torch.stack([place.variation for place in places]).mean(0)
            drift.losses.setdefault(label, []).append(rows.tolist())
            if way == TRUE:
                read = [float(place.variation.mean()) for place in places if place.side == "input"]
                with torch.no_grad():
                    right = float((child(inputs).argmax(1) == labels).double().mean())
                facts[name] = {"inputs": read, "accuracy": right}
    return facts


def exceptions(network: torch.nn.Module, holes: Peepholes) -> tuple[int, int]:
    """Layers whose 2-bit damage is not first seen where it must be: at the next input, and at the own output."""
    names = list(holes.holes)
    inputs = outputs = 0
    for index, name in enumerate(names):
        places = compared(network, rounded(network, 2, name), holes).places
        seen = {(place.module, place.side): float(place.variation.max()) > 0 for place in places}
        inputs += [seen[each, "input"] for each in names] != [other > index for other in range(len(names))]
        outputs += [seen[each, "output"] for each in names] != [other >= index for other in range(len(names))]
    return inputs, outputs


def exact(statement: str, against: int, of: int) -> dict[str, Any]:
    """A statement that holds when no case speaks against it."""
    return {
        "statement": f"{statement} ({of} cases)", "difference": against, "interval": [against, against],
        "outcome": "contradicted" if against else "holds", "unit": "cases against it",
    }  # fmt: skip


def main() -> str:
    drift, result = Experiment("layer-audit", CLAIM, "total variation"), Reliability()
    by_layer, against = [], [0, 0]
    for seed in SEEDS:
        network = perceptron(seed)
        holes = fitted(network, SETTINGS, seed)
        ways = {
            TRUE: holes, SHUFFLED: shuffled(holes, network, seed),
            RANDOM: fitted(network, dataclasses.replace(SETTINGS, directions="random"), seed),
        }  # fmt: skip
        measure_reliability(result, network, ways, seed)
        by_layer.append(measure_compression(drift, network, ways, seed))
        against = [sum(pair) for pair in zip(against, exceptions(network, holes), strict=True)]
        print(f"seed {seed}", result.latest(), flush=True)
    cases = len(SEEDS) * (len(WIDTHS) - 1)
    statements = [
        result.judged("noise 0", TRUE, SOFTMAX, margin=0.01),
        *(result.judged(f"noise {level:g}", TRUE, SOFTMAX) for level in LEVELS[1:]),
        *(result.judged(f"noise {level:g}", TRUE, other) for level in LEVELS[1:] for other in (RANDOM, SHUFFLED)),
        *(
            drift.compare(Statement(*pair))
            for pair in (
                ("bf16 noise", "8 bits"), ("8 bits", "4 bits"), ("4 bits", "3 bits"), ("3 bits", "2 bits"),
                ("2 bits, shuffled labels", "2 bits"),
            )
        ),
        exact("damage of layer j is first seen in what layer j + 1 reads", against[0], cases),
        exact("damage of layer j is first seen in what layer j gives", against[1], cases),
    ]  # fmt: skip
    return drift.conclude([], facts(result, by_layer), statements)


def facts(result: Reliability, by_layer: list[Any]) -> dict[str, Any]:
    """What else the record says."""

    def mean(name: str, key: str) -> Any:
        return torch.tensor([each[name][key] for each in by_layer], dtype=torch.float64).mean(0)

    return {
        "model": "a perceptron 64-64-48-32-10 on scikit-learn's digits, seeds " + str(list(SEEDS)),
        "calibration": "1347 training pictures, 12 directions, 20 clusters of a mixture",
        "evaluation": f"450 test pictures, {DRAWS} draws of noise",
        "auroc": result.table(),
        "drift_by_layer": {name: [round(each, 4) for each in mean(name, "inputs").tolist()] for name in by_layer[0]},
        "accuracy": {name: round(float(mean(name, "accuracy")), 4) for name in by_layer[0]},
        "nll": {},
    }


if __name__ == "__main__":
    main()
