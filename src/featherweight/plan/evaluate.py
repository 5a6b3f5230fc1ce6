"""Runs a candidate and measures it against the parent: a few rows first, all rows if it deserves them.

Scores are kept in the run's store under the recipe, the parent and the tokens, so that nothing is measured twice, even
when the candidate's weights are long gone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.data import TokenSet
from featherweight.core.lazy import np, torch
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.steps import Applied, apply_recipe
from featherweight.measure.quality import Scores, compare, resampled_means


@dataclass
class Evaluator:
    """Measures recipes on one parent.

    Attributes:
        parent: the model that everything is compared with.
        run: calibration, seed, store.
        selection: rows on which candidates are compared; `probe` of them come first.
        file_bytes: exact bytes of the file that a model exports to.
        latency: seconds a decoded token of a model in its runtime; None = not asked for.
        threads: with which `latency` measures.
        folder: where results of steps are kept.
        tokens_spent: child tokens that were run so far.
    """

    parent: Model
    run: Run
    selection: TokenSet
    probe: int
    file_bytes: Callable[[Model], int]
    latency: Callable[[Model], float] | None = None
    threads: int | None = None
    folder: Path | None = None
    tokens_spent: int = 0
    _applied: dict[str, list[Applied]] = field(default_factory=dict, init=False)

    @functools.cached_property
    def probe_rows(self) -> list[int]:
        """Rows of the first look: the same number from each domain."""
        chosen = self.selection.spread(self.probe)
        documents = set(zip(chosen.documents, map(tuple, chosen.ids.tolist()), strict=True))
        every = zip(self.selection.documents, map(tuple, self.selection.ids.tolist()), strict=True)
        return [row for row, each in enumerate(every) if each in documents]

    def first_look(self, recipe: Recipe) -> Scores:
        """Scores on the probe rows."""
        return self._scores(recipe, self.selection.rows(self.probe_rows))

    def full(self, recipe: Recipe) -> Scores:
        """Scores on all selection rows; those of the first look are not run again."""
        first = self.first_look(recipe)
        rest = [row for row in range(len(self.selection.documents)) if row not in set(self.probe_rows)]
        return join(first, self._scores(recipe, self.selection.rows(rest))) if rest else first

    def facts(self, recipe: Recipe) -> Mapping[str, Any]:
        """What a measurement of this recipe depends on."""
        calibration = self.run.calibration.digest if self.run.calibration else None
        return {
            "parent": self.parent.fingerprint, "recipe": recipe.digest, "calibration": calibration,
            "seed": self.run.seed,
        }  # fmt: skip

    def memory(self, recipe: Recipe) -> int:
        """Exact bytes of the exported file."""
        facts = self.facts(recipe)
        return int(self.run.store.json("file-bytes", facts, lambda: self.file_bytes(self.child(recipe))))

    def seconds(self, recipe: Recipe) -> float | None:
        """Measured seconds a decoded token, or None when latency was not asked for."""
        if self.latency is None:
            return None
        measure, facts = self.latency, {**self.facts(recipe), "threads": self.threads}
        return float(self.run.store.json("seconds", facts, lambda: measure(self.child(recipe))))

    def child(self, recipe: Recipe) -> Model:
        """The model that a recipe makes."""
        return self.steps(recipe)[-1].model if len(recipe) else self.parent

    def steps(self, recipe: Recipe) -> list[Applied]:
        """The applied steps; only the latest recipe's are held in memory."""
        if recipe.digest not in self._applied:
            self._applied.clear()
            self._applied[recipe.digest] = apply_recipe(recipe, self.parent, self.run, self.folder)
        return self._applied[recipe.digest]

    def _scores(self, recipe: Recipe, tokens: TokenSet) -> Scores:
        facts = {**self.facts(recipe), "tokens": tokens.digest}
        return Scores.of(self.run.store.tensors("scores", facts, lambda: self._measure(recipe, tokens)), tokens)

    def _measure(self, recipe: Recipe, tokens: TokenSet) -> dict[str, torch.Tensor]:
        self.tokens_spent += tokens.count
        return compare(self.parent, self.child(recipe), tokens, self.run).tensors()


def join(one: Scores, other: Scores) -> Scores:
    """The rows of both."""
    tokens = TokenSet(
        torch.cat([one.tokens.ids, other.tokens.ids]),
        one.tokens.domains + other.tokens.domains,
        one.tokens.documents + other.tokens.documents,
    )
    first, second = one.tensors(), other.tensors()
    return Scores.of({name: torch.cat([first[name], second[name]]) for name in first}, tokens)


def surely_worse(one: Scores, other: Scores, seed: int = 0) -> bool:
    """Whether `one` diverges more than `other` on the same rows beyond doubt (97.5 %, paired bootstrap by document)."""
    difference = (one.kl.mean(1) - other.kl.mean(1)).astype(np.float64)
    if len(set(one.tokens.documents)) < 3:
        return bool(difference.mean() > 0.5 * other.kl.mean())
    return bool(np.quantile(resampled_means(difference, one.tokens, seed, size=1000), 0.025) > 0)
