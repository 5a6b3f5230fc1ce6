"""Probes: what lies open is found, what is not there is not, and the network stays as it is."""

from __future__ import annotations

import pytest
import torch

from featherweight.core.labelled import Labelled
from featherweight.models.backbone import Backbone
from featherweight.models.sequence_network import SequenceNetwork, SignalEncoder
from featherweight.train.head import Fitting
from featherweight.train.probe import WAYS, Protocol, Question, balanced_hits, features, probe

PARTS = {"training": range(0, 120), "validation": range(120, 180), "test": range(180, 300)}


def network(seed: int = 0) -> SequenceNetwork:
    torch.manual_seed(seed)
    return SequenceNetwork(SignalEncoder(1, 8, (3,), (1,)), Backbone("convolution", 8, 1, 6))


def question(told: bool, seed: int = 0) -> Question:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (300,), generator=generator)
    signals = torch.randn(300, 16, 1, generator=generator) + (2.0 * told * classes)[:, None, None]
    return Question(Labelled(signals, tuple(str(each) for each in classes.tolist())), PARTS)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_there_is_found_and_nothing_else(way: str) -> None:
    protocol = Protocol(way, finetuning=Fitting(30, 1e-3))  # type: ignore[arg-type]
    body = network()
    before = {name: each.clone() for name, each in body.state_dict().items()}
    found = probe(body, question(True), protocol, torch.Generator().manual_seed(0))
    assert found.test > 0.9
    assert found.validation > 0.9
    assert len(found.rows) == 120
    nothing = probe(body, question(False), protocol, torch.Generator().manual_seed(0))
    assert abs(nothing.test - 0.5) < 0.15
    assert all(torch.equal(each, before[name]) for name, each in body.state_dict().items())


def test_the_same_generator_gives_the_same_head_and_labels() -> None:
    protocol = Protocol(labels=40)
    one, other, third = (
        probe(network(), question(False), protocol, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert one == other != third


def test_features_are_means_over_positions() -> None:
    signals = torch.randn(700, 16, 1)
    found = features(network(), signals)
    assert found.shape == (700, 8)
    torch.testing.assert_close(found[650:], network()(signals[650:]).mean(1).detach(), atol=1e-5, rtol=1e-5)


def test_every_class_counts_alike() -> None:
    targets = torch.tensor([0] * 90 + [1] * 10)
    found = balanced_hits(torch.tensor([[1.0, 0.0]]).expand(100, 2), targets)
    assert float(found.mean()) == pytest.approx(0.5)
    assert bool((found[90:] == 0).all())
    assert float(balanced_hits(torch.nn.functional.one_hot(targets, 3).float(), targets).mean()) == pytest.approx(1.0)
