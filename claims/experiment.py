"""What every claim shares: the model, tokens by seed, losses, the comparison of two variants, the verdict, the record.

A claim is a list of statements "A loses less than B". Both are judged on the same held-out rows of tokens, in nats per
token (NLL). A seed is a sample of calibration text; the evaluation text never changes. A statement

- holds when A is better in every seed and the 95 % bootstrap interval of the mean difference (over rows) is below 0,
- is contradicted when the same is true the other way round,
- and is undecided otherwise.

With a margin the statement is "A loses at most that much more than B", and all is judged against the margin.

The verdict is `reproduced` when all statements hold, `not reproduced` when none does, `mixed` otherwise. The text is
what every Python holds (pydoc's topics and the standard library's sources); the model is the embedded SmolLM2-135M.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from featherweight.core.data import TokenSet, default_documents, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.core.stream import head_weight, stream
from featherweight.core.technique import Technique

SEEDS = (0, 1, 2)
CALIBRATION_ROWS, EVALUATION_ROWS, LENGTH = 24, 16, 128
_RESAMPLES = 4000
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Statement:
    """`better` loses less than `worse`, or at most `margin` more (negative: by that much less); both are names."""

    better: str
    worse: str
    margin: float = 0.0

    def __str__(self) -> str:
        if self.margin < 0:
            return f"{self.better} loses less than {self.worse} by more than {-self.margin:g}"
        if self.margin:
            return f"{self.better} loses at most {self.margin:g} more than {self.worse}"
        return f"{self.better} loses less than {self.worse}"


@dataclass
class Experiment:
    """Measures variants of one model and compares them.

    Attributes:
        name: of the result file.
        claim: what the paper says, in one sentence.
        losses: mean NLL of every evaluation row, by variant, one list a seed.
        unit: of the losses.
    """

    name: str
    claim: str
    unit: str = "nats per token"
    losses: dict[str, list[list[float]]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def model(self) -> Model:
        return open_model("smollm2-135m")

    @cached_property
    def documents(self) -> dict[str, dict[str, list[str]]]:
        return split_documents(default_documents())

    @cached_property
    def evaluation(self) -> TokenSet:
        return tokenize(self.documents["held-out"], self.model.tokenizer, EVALUATION_ROWS, LENGTH)

    def calibration(self, seed: int) -> TokenSet:
        """A sample of the calibration text."""
        documents = {domain: reordered(texts, seed) for domain, texts in self.documents["calibration"].items()}
        return tokenize(documents, self.model.tokenizer, CALIBRATION_ROWS, LENGTH)

    def measure(
        self, variant: str, technique: Technique | None, seeds: Sequence[int] = SEEDS, parent: Model | None = None
    ) -> None:
        """Applies a technique once a seed and records the losses; None measures the parent.

        A variant that no seed changes (magnitude pruning, rounding to nearest) is measured with one.
        """
        before = parent or self.model
        for seed in seeds:
            run = Run(calibration=self.calibration(seed), seed=seed, parent=self.model)
            changed = before if technique is None else technique.apply(before, run)
            self.losses.setdefault(variant, []).append(row_losses(changed, self.evaluation.ids).tolist())
        mean = torch.tensor(self.losses[variant]).mean()
        print(f"{time.monotonic() - self.started:5.0f} s  {variant:40s} {mean:.4f}", flush=True)

    def compare(self, statement: Statement) -> dict[str, Any]:
        """The mean difference with its interval, and whether the statement holds."""
        difference = self._differences(statement)
        by_seed, by_row = difference.mean(1) - statement.margin, difference.mean(0) - statement.margin
        picks = torch.randint(len(by_row), (_RESAMPLES, len(by_row)), generator=torch.Generator().manual_seed(0))
        low, high = by_row[picks].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=by_row.dtype)).tolist()
        return {
            "statement": str(statement),
            "difference": round(float(difference.mean()), 4),
            "interval": [round(low + statement.margin, 4), round(high + statement.margin, 4)],
            "outcome": outcome_of(by_seed, low, high),
            **({} if self.unit == "nats per token" else {"unit": self.unit}),
        }

    def _differences(self, statement: Statement) -> torch.Tensor:
        """NLL of `better` minus that of `worse`, [seeds, rows]."""
        better, worse = (
            torch.tensor(self.losses[name], dtype=torch.float64) for name in (statement.better, statement.worse)
        )
        return better - worse

    def conclude(
        self,
        statements: Sequence[Statement],
        facts: Mapping[str, Any] | None = None,
        found: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Prints the table and the verdict, and writes the result file.

        Args:
            statements: to be judged on the measured losses.
            facts: what else the record says; they take the place of the usual ones.
            found: statements that were judged otherwise, in the shape that `compare` gives.
        """
        compared = [*(self.compare(statement) for statement in statements), *found]
        verdict = verdict_of([each["outcome"] for each in compared])
        seeds = list(SEEDS[: max(map(len, self.losses.values()), default=len(SEEDS))])
        self._print(compared, verdict)
        record = {
            "claim": self.claim,
            "verdict": verdict,
            "statements": compared,
            "nll": {name: [round(sum(row) / len(row), 4) for row in seeds] for name, seeds in self.losses.items()},
            "model": "smollm2-135m",
            "calibration": f"{CALIBRATION_ROWS} rows of {LENGTH} tokens, seeds {seeds}",
            "evaluation": f"{EVALUATION_ROWS} held-out rows of {LENGTH} tokens",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "cpu_seconds": round(time.process_time()),
            **(facts or {}),
        }  # fmt: skip
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return verdict

    def _print(self, compared: Sequence[Mapping[str, Any]], verdict: str) -> None:
        console = Console()
        console.print(f"\n[bold]{self.name}[/bold]: {self.claim}")
        losses = Table("variant", f"{self.unit} (mean of seeds)", "lowest to highest seed")
        for name, seeds in self.losses.items():
            means = [sum(rows) / len(rows) for rows in seeds]
            losses.add_row(name, f"{sum(means) / len(means):.3f}", f"{min(means):.3f} to {max(means):.3f}")
        console.print(losses)
        table = Table("statement", "difference", "95 % interval", "outcome")
        for each in compared:
            low, high = each["interval"]
            table.add_row(
                each["statement"], f"{each['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}", each["outcome"]
            )
        console.print(table)
        console.print(f"[bold]{verdict}[/bold]")


def outcome_of(by_seed: torch.Tensor, low: float, high: float) -> str:
    """Of a statement that holds when a difference is below 0, in every seed and with its whole interval."""
    if high < 0 and bool((by_seed < 0).all()):
        return "holds"
    return "contradicted" if low > 0 and bool((by_seed > 0).all()) else "undecided"


def verdict_of(outcomes: Sequence[str]) -> str:
    """`reproduced`, `mixed` or `not reproduced` from the outcomes of all statements."""
    held = sum(outcome == "holds" for outcome in outcomes)
    return "reproduced" if held == len(outcomes) else "mixed" if held else "not reproduced"


def reordered(texts: Sequence[str], seed: int) -> list[str]:
    """Texts in the order of a seed; rows are cut from the first ones, so each seed is a sample of its own."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    return [texts[index] for index in order]


def row_losses(model: Model, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token NLL of each row of tokens, float64 [rows]."""
    hidden = stream(model, ids)
    head = head_weight(model)
    losses = []
    for row, states in zip(ids, hidden, strict=True):
        losses.append(torch.nn.functional.cross_entropy(states[:-1] @ head.T, row[1:]).double())
    return torch.stack(losses)
