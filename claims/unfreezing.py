"""A model of twelve-channel signals moved to a sensor of three. `python -m claims.unfreezing`.

Three sources are waves of one of four frequencies each. The clinical device hears twelve mixtures of them; a small
Llama trunk learns there to tell the frequencies of the first two sources apart (16 classes). The wearable hears three
mixtures, with more noise, and has 50 labels for another question: is the first source faster than the second? The
bridge from three channels to twelve is known up to noise ("known bridge"), or random of the same size, or there is none
and nothing is pretrained ("scratch"). The known bridge is trained with progressive unfreezing (bridge and head, then
blocks from the top, rates divided by 2.6), with everything at once, or with its blocks frozen.

A seed draws the mixtures, the network, the labels. Losses are shares of 1,000 test windows that are put in the wrong
class.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import transformers

from claims.experiment import Experiment, Statement
from featherweight.models.input_bridge import ChannelBridge, SensorModel
from featherweight.train.loop import Schedule, minimise
from featherweight.train.optimizers import build_optimizer
from featherweight.train.unfreezing import Stage, Unfreezing, ladder

CLAIM = (
    "A model moved to another sensor by a bridge that starts from what is known of the sensors, unfrozen step by step, "
    "is more accurate than one moved by a random bridge, and that one than one trained from scratch (after arXiv "
    "2605.22774)."
)
SEEDS = (0, 1, 2)
SAMPLES, PATCH, LABELS, TESTED = 32, 4, 50, 1000
PRETRAINING, ADAPTING, BATCH = 500, 160, 64
_KNOWN_TO = 0.1  # error of the known bridge, relative to its entries


@dataclass(frozen=True)
class World:
    """How a seed's devices hear its sources."""

    clinical: torch.Tensor
    wearable: torch.Tensor
    generator: torch.Generator

    @property
    def bridge(self) -> torch.Tensor:
        """The true matrix from wearable channels to clinical ones, [12, 3]."""
        return self.clinical @ torch.linalg.inv(self.wearable)

    def draw(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Sources [rows, 3, samples] and the frequencies' numbers [rows, 3]."""
        levels = torch.randint(4, (rows, 3), generator=self.generator)
        phases = 6.28 * torch.rand(rows, 3, 1, generator=self.generator)
        time_ = torch.arange(SAMPLES)
        return torch.sin(time_ * (0.2 + 0.22 * levels[..., None]) + phases), levels

    def noise(self, heard: torch.Tensor, size: float) -> torch.Tensor:
        return heard + size * torch.randn(heard.shape, generator=self.generator)


def world(seed: int) -> World:
    generator = torch.Generator().manual_seed(seed)
    wearable = torch.eye(3) + 0.3 * torch.randn(3, 3, generator=generator)
    return World(torch.randn(12, 3, generator=generator) / 3**0.5, wearable, generator)


def network(bridge: torch.Tensor, classes: int) -> SensorModel:
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=SAMPLES,
    )  # fmt: skip
    trunk = transformers.LlamaModel(config)
    del trunk.embed_tokens
    return SensorModel(trunk, ChannelBridge(bridge), PATCH, classes)


def train(model: SensorModel, batch: object, steps: int, rate: float, schedule: Unfreezing | None = None) -> None:
    """Minimises the cross-entropy of what `batch()` gives."""
    assert callable(batch)
    named = dict(model.named_parameters())
    optimizer = build_optimizer("adamw", named.items(), rate, factors=schedule.factors if schedule else None)

    def loss(_: int) -> torch.Tensor:
        signals, labels = batch()
        return torch.nn.functional.cross_entropy(model(signals), labels)

    guarded = schedule.guard(named.items(), loss) if schedule else loss
    minimise(named.values(), guarded, Schedule(steps, rate, steps // 10), optimizer=optimizer)


class Errors(Experiment):
    """Shares of wrong test rows, variant by variant."""

    def note(self, name: str, model: SensorModel, test: tuple[torch.Tensor, torch.Tensor]) -> None:
        with torch.no_grad():
            wrong = (model(test[0]).argmax(1) != test[1]).double()
        self.losses.setdefault(name, []).append(wrong.tolist())
        print(f"{time.monotonic() - self.started:5.0f} s  {name:32s} {float(wrong.mean()):.4f}", flush=True)


def one_seed(experiment: Errors, seed: int) -> float:
    """All variants of a seed; returns the pretrained model's share of errors on its own task."""
    here = world(seed)
    torch.manual_seed(seed)
    clinical = network(torch.eye(12), 16)

    def hospital() -> tuple[torch.Tensor, torch.Tensor]:
        sources, levels = here.draw(BATCH)
        return here.noise(here.clinical @ sources, 0.1), levels[:, 0] * 4 + levels[:, 1]

    train(clinical, hospital, PRETRAINING, 3e-3)
    with torch.no_grad():
        pairs = [hospital() for _ in range(8)]
        own = float(torch.cat([clinical(x).argmax(1) != y for x, y in pairs]).float().mean())
    labelled, test = _questions(here, LABELS), _questions(here, TESTED)
    known = here.bridge * (1 + _KNOWN_TO * torch.randn(12, 3, generator=here.generator))
    random = torch.randn(12, 3, generator=here.generator) * here.bridge.norm() / 6
    for name, bridge in (("known bridge", known), ("random bridge", random), ("scratch", None)):
        ways = ("step by step", "all at once", "blocks frozen") if name == "known bridge" else ("step by step",)
        for way in ("all at once",) if bridge is None else ways:
            torch.manual_seed(seed + 1000)
            model = network(torch.eye(3) if bridge is None else bridge, 2)
            if bridge is not None:
                model.trunk.load_state_dict(clinical.trunk.state_dict())
                model.project.load_state_dict(clinical.project.state_dict())
            train(model, lambda: labelled, ADAPTING, 3e-3, schedule_of(model, way))
            experiment.note(f"{name}, {way}", model, test)
    return own


def _questions(here: World, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of the wearable, and whether the first source is the faster one; those without an answer are left out."""
    sources, levels = here.draw(2 * rows)
    told = (levels[:, 0] != levels[:, 1]).nonzero().squeeze(1)[:rows]
    heard = here.noise(here.wearable @ sources[told], 0.3)
    return heard, (levels[told, 0] > levels[told, 1]).long()


def schedule_of(model: SensorModel, way: str) -> Unfreezing | None:
    """When what is unfrozen."""
    names = [name for name, _ in model.named_parameters()]
    if way == "step by step":
        return ladder(names, every=ADAPTING // 5, stages=4)
    if way == "blocks frozen":
        blocks = tuple(name for name in names if ".layers." in name)
        return Unfreezing((Stage(10 * ADAPTING, 1.0, blocks),))
    return None


def main() -> str:
    torch.set_num_threads(1)
    experiment = Errors("unfreezing", CLAIM, "error rate")
    own = [one_seed(experiment, seed) for seed in SEEDS]
    facts = {
        "errors_of_the_pretrained_model_on_its_own_task": [round(each, 4) for each in own],
        "model": "Llama trunk, 4 blocks, 32 wide, on windows of 32 samples",
        "calibration": f"{PRETRAINING} steps of {BATCH} windows, then {LABELS} labelled windows; seeds {list(SEEDS)}",
        "evaluation": f"{TESTED} windows",
    }
    statements = [
        Statement("known bridge, step by step", "random bridge, step by step"),
        Statement("random bridge, step by step", "scratch, all at once"),
        Statement("known bridge, step by step", "known bridge, all at once"),
        Statement("known bridge, step by step", "known bridge, blocks frozen"),
    ]
    return experiment.conclude(statements, facts)


if __name__ == "__main__":
    main()
