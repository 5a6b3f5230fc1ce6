"""Routing the lottery on digits in three environments. `python -m claims.routed_lottery`.

An environment shows scikit-learn's digits under its own fixed permutation of the pixels; each has a third of the
training pictures. A perceptron 64-48-48-10 whose two hidden layers are pruned (5,376 weights) is told the environment.
Five pruning rounds of 60 updates an environment, then 300 updates an environment, by Adam, for every variant alike:

- routed: a ticket for each environment, shared weights trained under all of them in turn;
- independent: the same tickets, each with its own weights (IMP x 3);
- single: one ticket of the same sparsity, trained on all environments (IMP);
- equal storage: one ticket that keeps as many weights as the routed one stores, and more for the bits of its masks;
- random routes: random masks of the same sparsity; wrong route: the routed network with the next environment's mask.

Losses are the share of misread test pictures, every picture in all three environments; a seed draws permutations,
partition, start and batches. The source compares with `single` at equal density and does not count masks.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from claims.experiment import Experiment, Statement
from featherweight.core.errors import MissingExtra
from featherweight.measure.overlap import count, overlap_of, size, trend_break, union_of
from featherweight.train.loop import Schedule, shuffled
from featherweight.train.masked import Loss, Masks, Weights, masked, train_masked
from featherweight.train.tickets import equal_storage, full_masks, magnitude_pruning, prune_in_rounds, shrink

CLAIM = (
    "One mask an environment over shared weights reads better than one mask for all, and as well as independent sparse"
    " networks that store several times the weights (arXiv 2601.22141)."
)
SEEDS = range(5)
SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.98)
ENVIRONMENTS, TEST, BATCH, RATE, BITS = 3, 597, 64, 5e-3, 16
ROUNDS, TICKET_UPDATES, UPDATES = 5, 60, 300
HIDDEN = ("0.weight", "2.weight")


@functools.cache
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures [1797, 64] and labels, in one random order; the first are for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("the digits", "scikit-learn") from None
    inputs, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(inputs, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


def perceptron() -> torch.nn.Sequential:
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    return torch.nn.Sequential(linear(64, 48), relu(), linear(48, 48), relu(), linear(48, 10))


class Environments:
    """The data and the start of one seed, and everything that is trained on them."""

    def __init__(self, seed: int) -> None:
        self.seed, generator = seed, torch.Generator().manual_seed(seed)
        self.pixels = [torch.randperm(64, generator=generator) for _ in range(ENVIRONMENTS)]
        order = TEST + torch.randperm(len(pictures()[0]) - TEST, generator=generator)
        self.rows = order.chunk(ENVIRONMENTS)
        torch.manual_seed(seed)
        self.network = perceptron()
        self.start = {name: each.detach() for name, each in self.network.named_parameters()}
        self.full = full_masks({name: self.start[name].shape for name in HIDDEN})

    def outputs(self, weights: Weights, inputs: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(self.network, dict(weights), (inputs,))

    def loss(self, environment: int, purpose: int) -> Loss:
        """Cross-entropy of a batch of an environment's training pictures."""
        inputs, labels = (each[self.rows[environment]] for each in pictures())
        inputs = inputs[:, self.pixels[environment]]
        generator = torch.Generator().manual_seed(self.seed * 1000 + purpose * 10 + environment)
        batch_of = shuffled(len(labels), BATCH, generator)

        def loss(weights: Weights, batch: int) -> torch.Tensor:
            chosen = list(batch_of(batch))
            return torch.nn.functional.cross_entropy(self.outputs(weights, inputs[chosen]), labels[chosen])

        return loss

    def losses(self, purpose: int) -> list[Loss]:
        return [self.loss(environment, purpose) for environment in range(ENVIRONMENTS)]

    def tickets(self, sparsity: float) -> list[Masks]:
        """One for each environment."""
        prune = magnitude_pruning(self.start, self.losses(1), Schedule(TICKET_UPDATES, RATE, decay="none"))
        return prune_in_rounds(ENVIRONMENTS, self.full, prune, sparsity, ROUNDS)

    def ticket(self, sparsity: float) -> Masks:
        """One for all environments, whose batches take turns; as many updates in all."""
        losses = self.losses(1)

        def together(weights: Weights, batch: int) -> torch.Tensor:
            return losses[batch % ENVIRONMENTS](weights, batch // ENVIRONMENTS)

        updates = Schedule(ENVIRONMENTS * TICKET_UPDATES, RATE, decay="none")
        return prune_in_rounds(1, self.full, magnitude_pruning(self.start, [together], updates), sparsity, ROUNDS)[0]

    def random(self, sparsity: float) -> list[Masks]:
        generator = torch.Generator().manual_seed(self.seed)
        scores = [
            {name: torch.rand(each.shape, generator=generator) for name, each in self.full.items()} for _ in self.rows
        ]
        return [shrink(self.full, each, sparsity) for each in scores]

    def jointly(self, masks: Sequence[Masks]) -> list[Weights]:
        """Shared weights, as each environment sees them."""
        updates = Schedule(ENVIRONMENTS * UPDATES, RATE)
        shared = train_masked(self.start, masks, self.losses(2), updates)
        return [masked(shared, mask) for mask in masks]

    def independently(self, masks: Sequence[Masks]) -> list[Weights]:
        """Weights of its own for each environment."""
        pairs = zip(masks, self.losses(2), strict=True)
        return [masked(train_masked(self.start, [mask], [loss], Schedule(UPDATES, RATE)), mask) for mask, loss in pairs]

    @torch.no_grad()
    def errors(self, networks: Sequence[Weights]) -> list[float]:
        """The share of environments in which each test picture is misread."""
        inputs, labels = (each[:TEST] for each in pictures())
        wrong = [
            self.outputs(weights, inputs[:, pixels]).argmax(1) != labels
            for weights, pixels in zip(networks, self.pixels, strict=True)
        ]
        return torch.stack(wrong).double().mean(0).tolist()


@dataclass
class Digits(Experiment):
    """Measures the variants and what they store."""

    def __post_init__(self) -> None:
        self.stored: dict[str, list[int]] = {}
        self.overlaps: dict[str, list[dict[str, float]]] = {}

    def variant(self, name: str, errors: list[float], weights: int, masks: int) -> None:
        """One seed of a variant; stored bits are 16 a weight and 1 a mask and weight."""
        self.losses.setdefault(name, []).append(errors)
        self.stored.setdefault(name, []).append(BITS * weights + masks)

    def sparsity(self, world: Environments, sparsity: float) -> None:
        """All variants at one sparsity, one seed."""
        at, total = f"{sparsity:.0%}", size(world.full)
        tickets = world.tickets(sparsity)
        overlap = overlap_of({str(place): mask for place, mask in enumerate(tickets)})
        routed, union, kept = world.jointly(tickets), overlap.union, count(tickets[0])
        self.variant(f"routed {at}", world.errors(routed), union, 3 * total)
        self.variant(f"independent {at}", world.errors(world.independently(tickets)), 3 * kept, 3 * total)
        single = world.ticket(sparsity)
        self.variant(f"single {at}", world.errors(world.jointly([single] * 3)), kept, total)
        fair = equal_storage(union, total, ENVIRONMENTS, BITS)
        wide = world.ticket(1 - fair / total)
        self.variant(f"equal storage {at}", world.errors(world.jointly([wide] * 3)), fair, total)
        random = world.random(sparsity)
        self.variant(f"random routes {at}", world.errors(world.jointly(random)), count(union_of(random)), 3 * total)
        if sparsity == 0.9:
            self.variant("wrong route 90%", world.errors(routed[1:] + routed[:1]), union, 3 * total)
        monitor = {key: getattr(overlap, key) for key in ("jaccard", "independent", "excess")}
        self.overlaps.setdefault(at, []).append({"union": union, **monitor})

    def monitor(self) -> dict[str, Any]:
        """Overlap by sparsity, means of the seeds, with the break of the trend that each point makes."""
        rows: dict[str, Any] = {}
        for at, seeds in self.overlaps.items():
            means = {key: round(sum(each[key] for each in seeds) / len(seeds), 3) for key in seeds[0]}
            change = trend_break([*(row["excess"] for row in rows.values()), means["excess"]])
            rows[at] = {**means, "trend break": round(change, 3)}
        return rows


def facts_of(experiment: Digits) -> Mapping[str, Any]:
    return {
        "model": "a perceptron 64-48-48-10 on scikit-learn's digits",
        "calibration": f"400 pictures an environment, seeds {list(SEEDS)}",
        "evaluation": f"{TEST} test pictures in each of {ENVIRONMENTS} environments",
        "stored_bytes": {name: round(sum(each) / len(each) / 8) for name, each in experiment.stored.items()},
        "collapse_monitor": experiment.monitor(),
    }


def main() -> str:
    torch.set_num_threads(1)
    experiment = Digits("routed-lottery", CLAIM, unit="share misread")
    for seed in SEEDS:
        world = Environments(seed)
        for sparsity in SPARSITIES:
            experiment.sparsity(world, sparsity)
        print(f"{time.monotonic() - experiment.started:5.0f} s  seed {seed}", flush=True)
    statements = [Statement(f"routed {at:.0%}", f"single {at:.0%}") for at in SPARSITIES]
    statements.append(Statement("routed 90%", "single 90%", margin=-0.04))
    statements += [Statement(f"routed {at:.0%}", f"independent {at:.0%}", margin=0.01) for at in SPARSITIES]
    statements += [Statement(f"routed {at:.0%}", f"equal storage {at:.0%}") for at in SPARSITIES]
    statements += [Statement("routed 90%", "random routes 90%"), Statement("routed 90%", "wrong route 90%")]
    return experiment.conclude(statements, facts_of(experiment))


if __name__ == "__main__":
    main()
