"""Divergence in parts: that of the whole distributions, wherever the vocabulary is cut."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.measure.divergence import Divergence

TOKENS, VOCABULARY = 6, 23


def in_parts(targets: torch.Tensor, parent: torch.Tensor, child: torch.Tensor, cuts: list[int]) -> Divergence:
    sums = Divergence(targets)
    for first, last in zip([0, *cuts], [*cuts, VOCABULARY], strict=True):
        for some in (slice(0, 2), slice(2, TOKENS)):
            sums.add(some, first, parent[some, first:last].clone(), child[some, first:last].clone())
    return sums


@settings(deadline=None)
@given(
    st.integers(0, 2**31),
    st.sets(st.integers(1, VOCABULARY - 1)).map(sorted),
    st.floats(0.01, 60),
    st.floats(-50, 50),
)
def test_any_cut_gives_what_the_whole_gives(seed: int, cuts: list[int], scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    parent = torch.randn(TOKENS, VOCABULARY, generator=generator) * scale
    child = parent + torch.randn(TOKENS, VOCABULARY, generator=generator) + shift
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    found = in_parts(targets, parent, child, cuts)
    p, q = (each.double().log_softmax(-1) for each in (parent, child))
    for ours, theirs in (
        (found.parent.nll(), -p.gather(1, targets[:, None])[:, 0]),
        (found.child.nll(), -q.gather(1, targets[:, None])[:, 0]),
        (found.kl(), (p.exp() * (p - q)).sum(-1)),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.agree(), parent.argmax(-1) == child.argmax(-1))


def test_a_model_does_not_diverge_from_itself() -> None:
    logits = torch.randn(TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 20
    found = in_parts(torch.arange(TOKENS), logits, logits, [5, 6])
    assert found.kl().tolist() == [0.0] * TOKENS
    assert bool(found.agree().all())
