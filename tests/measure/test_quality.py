"""Quality: known answers, what plain transformers computes, intervals paired by document."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from featherweight.core.data import TokenSet
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.store import Store
from featherweight.core.technique import build
from featherweight.measure import quality
from featherweight.measure.quality import Quality, Scores, by_domain, compare, compare_once, summarize
from featherweight.testing.tiny import tiny_tokens


@pytest.fixture(scope="module")
def tokens(trained: Path) -> TokenSet:
    """Rows of two domains; each document has two rows."""
    rows = tiny_tokens(trained, rows=12, length=40, skip=50)
    return TokenSet(rows.ids, ("prose", "code") * 6, tuple(row // 2 for row in range(12)))


@pytest.fixture(scope="module")
def parent(trained: Path) -> Model:
    return open_folder(trained)


@pytest.fixture(scope="module")
def child(parent: Model) -> Model:
    return build("rtn", {"format": "Q4_0"}).apply(parent, Run())


@pytest.fixture(scope="module")
def scores(parent: Model, child: Model, tokens: TokenSet) -> Scores:
    return compare(parent, child, tokens, Run())


def test_a_model_against_itself(parent: Model, tokens: TokenSet) -> None:
    scores = compare(parent, parent, tokens, Run())
    found = summarize(scores)
    assert (found.ratio, found.kl, found.agreement) == (1.0, 0.0, 1.0)
    assert (found.ratio_interval, found.kl_interval, found.agreement_interval) == ((1.0, 1.0), (0.0, 0.0), (1.0, 1.0))
    assert np.array_equal(scores.parent_nll, scores.child_nll)


def test_scores_are_those_of_plain_transformers(parent: Model, child: Model, tokens: TokenSet, scores: Scores) -> None:
    with torch.inference_mode():
        p, q = (each.module()(tokens.ids).logits[:, :-1].log_softmax(-1) for each in (parent, child))
    targets = tokens.ids[:, 1:, None]
    for found, expected in (
        (scores.parent_nll, -p.gather(2, targets)[..., 0]),
        (scores.child_nll, -q.gather(2, targets)[..., 0]),
        (scores.kl, (p.exp() * (p - q)).sum(-1)),
        (scores.agree, (p.argmax(-1) == q.argmax(-1)).float()),
    ):
        assert found.shape == (12, 39)
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_how_many_logits_are_in_memory_changes_nothing(
    parent: Model, child: Model, tokens: TokenSet, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "_PART", 7)
    monkeypatch.setattr(quality, "_LOGITS", 1)
    pieces = compare(parent, child, tokens, Run())
    np.testing.assert_allclose(pieces.kl, scores.kl, atol=1e-5)
    np.testing.assert_allclose(pieces.child_nll, scores.child_nll, rtol=1e-5)
    np.testing.assert_array_equal(pieces.agree, scores.agree)


def test_summary_over_all_tokens(scores: Scores) -> None:
    found = summarize(scores)
    assert found.kl == pytest.approx(scores.kl.mean(), rel=1e-5)
    assert found.agreement == pytest.approx(scores.agree.mean(), rel=1e-5)
    assert found.parent_perplexity == pytest.approx(np.exp(scores.parent_nll.mean()), rel=1e-4)
    assert found.ratio == pytest.approx(found.parent_perplexity / found.child_perplexity)
    assert (found.tokens, found.documents) == (12 * 39, 6)


def test_intervals_hold_the_mean(scores: Scores) -> None:
    found = summarize(scores)
    for value, (low, high) in (
        (found.ratio, found.ratio_interval), (found.kl, found.kl_interval), (found.agreement, found.agreement_interval),
    ):  # fmt: skip
        assert low < value < high


def test_documents_are_what_is_resampled(scores: Scores) -> None:
    """Rows said twice add no certainty when they are of the same document, and do when they are not."""
    twice = scores.rows([*range(12), *range(12)])
    assert summarize(twice).ratio_interval == pytest.approx(summarize(scores).ratio_interval)
    apart = dataclasses.replace(twice, tokens=TokenSet(twice.tokens.ids, twice.tokens.domains, tuple(range(24))))
    assert _width(summarize(apart)) < _width(summarize(scores))


def _width(quality: Quality) -> float:
    return quality.kl_interval[1] - quality.kl_interval[0]


def test_resampling_is_paired(scores: Scores) -> None:
    """What makes documents hard for both models is no uncertainty of their ratio."""
    difficulty = np.linspace(0, 5, 12, dtype=np.float32)[:, None]
    harder = dataclasses.replace(
        scores, parent_nll=scores.parent_nll + difficulty, child_nll=scores.child_nll + difficulty
    )
    assert summarize(harder).ratio_interval == pytest.approx(summarize(scores).ratio_interval, rel=1e-4)


def test_domains_share_out_the_tokens(scores: Scores) -> None:
    found = by_domain(scores)
    assert list(found) == ["prose", "code"]
    assert sum(each.tokens for each in found.values()) == scores.kl.size
    assert np.mean([each.kl for each in found.values()]) == pytest.approx(summarize(scores).kl, rel=1e-5)


def test_fewer_bits_are_worse(parent: Model, tokens: TokenSet) -> None:
    losses = []
    for bits in (8, 5, 4, 3, 2):
        child = build("rtn", {"format": f"int{bits}-g32"}).apply(parent, Run())
        losses.append(summarize(compare(parent, child, tokens, Run())).kl)
    assert losses == sorted(losses)
    assert losses[0] > 0


def test_measured_once(parent: Model, child: Model, tokens: TokenSet, scores: Scores, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = compare_once(parent, child, tokens, Run(store=store))
    assert store.made == 2  # the parent's hidden states and the scores
    again = compare_once(parent, child, tokens, Run(store=Store(tmp_path)))
    assert store.made == 2
    for name in ("parent_nll", "child_nll", "kl", "agree"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_allclose(getattr(first, name), getattr(scores, name), atol=1e-6)


def test_quality_survives_json(scores: Scores) -> None:
    found = summarize(scores)
    assert Quality.from_dict(found.to_dict()) == found
