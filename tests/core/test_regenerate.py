"""Regenerating calibration rows: identity, equal tokens, the winner of a group, what is left out and recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError
from featherweight.core.regenerate import Candidate, Manner, Regenerated, regenerate
from featherweight.core.run import Run
from featherweight.core.sampling import Draw
from featherweight.core.source import open_folder
from featherweight.core.template import ServingForm
from featherweight.core.writers import LocalWriter, licence_of
from featherweight.measure.experts import likelihood, rules
from featherweight.testing.tiny import tiny_tokens


@pytest.fixture(scope="module")
def writer(trained: Path) -> LocalWriter:
    return LocalWriter(open_folder(trained), "trained")


@pytest.fixture(scope="module")
def tokens(trained: Path) -> TokenSet:
    return tiny_tokens(trained)


def constant(candidates: Sequence[Candidate]) -> list[float]:
    return [0.5] * len(candidates)


def made(tokens: TokenSet, writer: LocalWriter, seed: int = 0, expert: Any = constant, **changes: Any) -> Regenerated:
    manner = Manner(**{"candidates": 2, "draw": Draw(1.0, 0.9), **changes})
    return regenerate(tokens, writer.tokenizer, writer, expert, manner, Run(seed=seed))


@pytest.mark.parametrize("candidates", [1, 3])
def test_identity_is_the_very_same_rows(tokens: TokenSet, writer: LocalWriter, candidates: int) -> None:
    manner = Manner(candidates=candidates, normalise=False)
    same = regenerate(tokens, writer.tokenizer, None, rules(), manner, Run())
    assert same.tokens.digest == tokens.digest
    assert same.tokens.documents == tokens.documents
    assert same.tokens.ids.dtype == tokens.ids.dtype


def test_one_seed_one_set(tokens: TokenSet, writer: LocalWriter) -> None:
    one = made(tokens, writer)
    assert made(tokens, writer).tokens.digest == one.tokens.digest
    assert made(tokens, writer).samples == one.samples
    assert made(tokens, writer, seed=1).tokens.digest != one.tokens.digest
    assert made(tokens, writer, stream="own").tokens.digest != one.tokens.digest


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_tokens_are_as_many_as_before(tokens: TokenSet, writer: LocalWriter, normalise: bool, share: float) -> None:
    new = made(tokens, writer, normalise=normalise, share=share, rounds=20)
    assert new.tokens.ids.shape == tokens.ids.shape
    longest = max(each["tokens"] for each in new.samples)
    assert 0 <= sum(each["tokens"] for each in new.samples) + len(new.samples) - new.tokens.count <= 8 * longest


def test_rows_and_samples_start_like_the_template_and_read_back(tokens: TokenSet, writer: LocalWriter) -> None:
    form, new = ServingForm(writer.tokenizer), made(tokens, writer, rounds=20)
    samples = iter(new.samples)
    whole = 0
    for row in new.tokens.ids.tolist():
        position = 0
        while position < len(row):
            count = next(samples)["tokens"]
            sample = row[position : position + count]
            position += count
            assert sample[: len(form.prefix)] == form.prefix[: len(sample)]
            if position <= len(row):  # not cut by the end of the row
                assert form.reads_back(sample)
                whole += 1
    assert next(samples, None) is None
    assert whole > 0


def test_the_winner_has_the_highest_score_and_of_equals_the_first(tokens: TokenSet, writer: LocalWriter) -> None:
    calls: list[list[float]] = [[1.0, 2.0] * 4, [3.0, 2.0] * 4, [3.0, 1.0] * 4, [float("nan")] * 8]
    scores = iter(calls * 20)
    new = made(tokens, writer, expert=lambda _: next(scores), candidates=4, rounds=20)
    for sample in new.samples:
        expected = (1, 3.0) if sample["row"] % 2 == 0 else (0, 2.0)
        assert (int(sample["draw"].rsplit("/", 1)[1]), sample["score"]) == expected


@pytest.mark.parametrize("kind", ["likelihood", "rules"])
def test_twice_as_many_candidates_are_never_worse(tokens: TokenSet, writer: LocalWriter, kind: str) -> None:
    expert = likelihood(writer.model, Run()) if kind == "likelihood" else rules()
    best = []
    for candidates in (2, 4):
        new = made(tokens, writer, expert=expert, candidates=candidates, normalise=False)
        best.append({each["row"]: each["score"] for each in new.samples})
    assert best[0].keys() == best[1].keys()
    assert all(best[1][row] >= score for row, score in best[0].items())
    assert any(best[1][row] > score for row, score in best[0].items())


def test_every_sample_says_where_it_comes_from(tokens: TokenSet, writer: LocalWriter) -> None:
    licensed = dataclasses.replace(writer, terms="CC0")
    for sample in made(tokens, licensed, seed=7, rounds=20).samples:
        assert set(sample) == {
            "source", "row", "domain", "generator", "licence", "seed", "draw", "score", "tokens",
        }  # fmt: skip
        assert (sample["generator"], sample["licence"], sample["seed"]) == ("trained", "CC0", 7)
        assert sample["domain"] == tokens.domains[sample["row"]]


def test_too_little_is_said(tokens: TokenSet, writer: LocalWriter) -> None:
    with pytest.raises(DataError) as raised:
        made(tokens, writer, instruction="{sample} " * 40, rounds=1)
    assert "usable tokens of the 384 needed in 1 rounds (left out: 8 the question fills the row)" in str(raised.value)


def test_the_licence_is_what_the_card_says(tmp_path: Path) -> None:
    assert licence_of(tmp_path) == "not stated"
    (tmp_path / "LICENSE").write_text("\n")
    assert licence_of(tmp_path) == "not stated"
    (tmp_path / "LICENSE").write_text("Some Licence 1.0\n\nwords")
    assert licence_of(tmp_path) == "Some Licence 1.0"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert licence_of(tmp_path) == "apache-2.0"
