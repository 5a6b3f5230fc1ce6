"""Backbones: causal ones know no future, a state space is one function in two forms, sizes match."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import RecipeError
from featherweight.models.backbone import BACKBONES, IDENTITY, MIXERS, Backbone, matched, parameters_of
from featherweight.models.sequence_network import SequenceNetwork, SignalEncoder, TokenEncoder
from featherweight.models.state_space import StateSpace
from featherweight.models.time_attention import rotated

WIDTH = 16


def backbone(name: str, causal: bool = True, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return Backbone(name, WIDTH, 2, 8, causal).requires_grad_(False)


@pytest.mark.parametrize(("name", "apart"), [("attention", 0.0), ("convolution", 0.0), ("state-space", 1e-5)])
@pytest.mark.parametrize("cut", [1, 17, 39])
def test_a_causal_backbone_does_not_see_the_future(name: str, apart: float, cut: int) -> None:
    body, hidden = backbone(name), torch.randn(3, 40, WIDTH)
    other = hidden.clone()
    other[:, cut:] = torch.randn(3, 40 - cut, WIDTH)
    difference = (body(hidden) - body(other)).abs()
    assert difference[:, :cut].max() <= apart
    assert difference[:, cut:].max() > 0.1


@pytest.mark.parametrize("name", MIXERS)
def test_a_backbone_that_is_not_causal_does(name: str) -> None:
    body, hidden = backbone(name, causal=False), torch.randn(2, 24, WIDTH)
    other = hidden.clone()
    other[:, 12] += 1
    difference = (body(hidden) - body(other)).abs().amax((0, 2))
    assert difference[11] > 1e-3
    assert difference[13] > 1e-3


@pytest.mark.parametrize("causal", [True, False])
@settings(max_examples=25)
@given(length=st.integers(1, 70), seed=st.integers(0, 5))
def test_the_convolution_of_a_state_space_equals_its_recurrence(causal: bool, length: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = StateSpace(6, 5, causal).requires_grad_(False)
    signal = torch.randn(2, length, 6)
    outputs = run(layer, signal)
    if not causal:
        twin = StateSpace(6, 5).requires_grad_(False)
        twin.load_state_dict({**layer.state_dict(), "read": layer.read[1:]})
        twin.through.zero_()
        # The second kernel is read backwards and starts one position ahead.
        behind = run(twin, signal.flip(1)).flip(1)
        outputs = outputs + torch.cat([behind[:, 1:], torch.zeros(2, 1, 6)], 1)
    torch.testing.assert_close(layer(signal), outputs, rtol=0, atol=1e-5)


def run(layer: StateSpace, signal: torch.Tensor) -> torch.Tensor:
    """Position by position."""
    state, outputs = layer.start(len(signal)), []
    for now in signal.unbind(1):
        state, output = layer.step(state, now)
        outputs.append(output)
    return torch.stack(outputs, 1)


def test_a_kernel_is_that_of_complex_states() -> None:
    torch.manual_seed(0)
    layer = StateSpace(4, 3).requires_grad_(False)
    poles = torch.complex(-layer.log_decay.exp(), layer.frequency)
    step = layer.log_step.exp()[:, None]
    held = (torch.exp(poles * step) - 1) / poles
    read = torch.complex(layer.read[0, 0], layer.read[0, 1])
    powers = torch.exp((poles * step)[..., None] * torch.arange(20))
    expected = 2 * ((read * held)[..., None] * powers).sum(1).real
    torch.testing.assert_close(layer.kernel(20), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_sizes_match(causal: bool) -> None:
    for wanted in (6500, 20000):
        for name in MIXERS:
            count = parameters_of(Backbone(name, 32, 2, matched(name, 32, 2, causal, wanted), causal))
            assert abs(count / wanted - 1) < 0.06, name


def test_an_identity_has_nothing_and_does_nothing() -> None:
    body, hidden = backbone(IDENTITY), torch.randn(2, 9, WIDTH)
    assert body(hidden) is hidden
    assert parameters_of(body) == 0
    assert matched(IDENTITY, WIDTH, 2, True, 100) == 0


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_and_states(name: str) -> None:
    body, hidden = backbone(name), torch.randn(2, 9, WIDTH)
    states = body.states(hidden)
    assert len(states) == (1 if name == IDENTITY else 3)
    assert all(each.shape == hidden.shape for each in states)
    torch.testing.assert_close(body(hidden), states[-1])


def test_rotation_keeps_lengths_and_counts_from_zero() -> None:
    states = torch.randn(2, 7, 8)
    turned = rotated(states)
    torch.testing.assert_close(turned.norm(dim=-1), states.norm(dim=-1))
    assert torch.equal(turned[:, 0], states[:, 0])


def test_an_encoder_sees_the_past_only_and_shortens() -> None:
    torch.manual_seed(0)
    encoder = SignalEncoder(2, WIDTH, (5, 1), (3, 1)).requires_grad_(False)
    signal = torch.randn(2, 31, 2)
    assert encoder(signal).shape == (2, 11, WIDTH)
    other = signal.clone()
    other[:, 13:] += 1
    difference = (encoder(signal) - encoder(other)).abs().amax((0, 2))
    assert difference[:5].max() == 0  # position 4 ends at sample 12
    assert difference[5] > 0.01


def test_a_network_of_tokens() -> None:
    network = SequenceNetwork(TokenEncoder(11, WIDTH), backbone("convolution"))
    assert network(torch.randint(11, (3, 8))).shape == (3, 8, WIDTH)


def test_what_there_is_not() -> None:
    with pytest.raises(RecipeError, match="did you mean 'attention'"):
        Backbone("atention", WIDTH, 2, 8)
    with pytest.raises(RecipeError, match="allow more parameters"):
        matched("convolution", 64, 2, True, 100)
