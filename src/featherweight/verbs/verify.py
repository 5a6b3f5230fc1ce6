"""verify: is this model still as good as its parent? And: does a run's ledger hold?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.budget import parse_share
from featherweight.core.errors import CheckpointError, LedgerError
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.receipt import Receipt, read_ledger
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.core.store import Store
from featherweight.measure.quality import Quality, by_domain, compare, summarize
from featherweight.measure.safety_statistics import require_counts
from featherweight.verbs.prepare import Settings, cache_folder, open_parent, read_text, token_rows
from featherweight.verify.gate import Check, Verdict, overall, quality_check, tokenizer_check

DEFAULT_FLOOR = 0.95

# Where tokenizers go wrong: spaces, digits, case, code, accents, scripts, emoji, line ends.
_STRINGS = (
    "Hello world", "a  12   345", "def f(x):\n\treturn x ** 2\r\n", "naïve café über straße", "日本語と中文", "🙂👍🏽",
    "$3.50 & 100%", "  leading and trailing  ", "don't can't I'LL", "مرحبا", "x" * 40,
)  # fmt: skip


@dataclass(frozen=True)
class Verification:
    """The checks of a child against its parent, and what was measured."""

    checks: list[Check]
    quality: Quality | None
    domains: Mapping[str, Quality]

    @property
    def verdict(self) -> Verdict:
        return overall(self.checks)


def verify(
    parent: str | Path,
    child: str | Path,
    *,
    quality: str | float | None = None,
    text: str | Path | None = None,
    settings: Settings | None = None,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compares a child with its parent on held-out text.

    Args:
        parent: the model to compare with.
        child: a model folder, a .gguf file or the `final` folder of a run.
        quality: the floor for parent perplexity / child perplexity; None = the run's own budget, or 95 %.
        text: a .txt or .jsonl file; None = the default text.
        settings: how many rows are read.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.
    """
    settings, progress = settings or Settings(), progress or Progress()
    floor = floor_of(child) if quality is None else parse_share(quality, "quality")
    documents = read_text(text)
    one, other = open_parent(parent, cache, trust), open_parent(child, cache, trust)
    same = same_tokens(one, other)
    if not same:
        return Verification([tokenizer_check(False)], None, {})
    rows = token_rows(one, documents, settings, progress, cache_folder(cache), text)
    run = Run(seed=settings.seed, device=settings.device, progress=progress, store=Store())
    scores = compare(one, other, rows.held_out, run)
    found = summarize(scores)
    return Verification([tokenizer_check(True), quality_check(found, floor)], found, by_domain(scores))


def floor_of(child: str | Path) -> float:
    """The quality floor of the run that a model belongs to, or the default."""
    result = Path(child).parent / "result.json"
    if Path(child).is_file():
        result = Path(child).parent.parent / "result.json"
    if not result.is_file():
        return DEFAULT_FLOOR
    budget: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")).get("budget", {})
    return float(budget.get("quality", DEFAULT_FLOOR))


def same_tokens(one: Model, other: Model) -> bool:
    """Whether two models' tokenizers agree on strings where tokenizers usually differ."""
    return all(
        one.tokenizer(text, add_special_tokens=False)["input_ids"]
        == other.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in _STRINGS
    )


def verify_ledger(run: str | Path) -> list[Receipt]:
    """The receipts of a run, if their chain holds and ends where the run says.

    Raises:
        CheckpointError: there is no ledger; LedgerError: names the first bad line.
    """
    folder = Path(run)
    path = folder if folder.suffix == ".jsonl" else folder / "ledger.jsonl"
    if not path.is_file():
        raise CheckpointError(str(run), "has no ledger", "give the folder of a run, or a ledger.jsonl")
    receipts = read_ledger(path)
    result = path.parent / "result.json"
    if result.is_file():
        facts = json.loads(result.read_text(encoding="utf-8"))
        expected = facts["receipts"]
        if len(receipts) < expected["count"]:
            raise LedgerError(
                f"{path} line {len(receipts) + 1}",
                f"is missing: the run wrote {expected['count']} receipts",
                "restore the ledger from a copy, or run again",
            )
        if expected["count"] and receipts[expected["count"] - 1].digest != expected["head"]:
            raise LedgerError(
                f"{path} line {expected['count']}", "is not the receipt that the run ended with", "restore the ledger"
            )
        if "counts" in facts:
            require_counts(receipts, facts["counts"], str(result))
    return receipts


__all__ = ["DEFAULT_FLOOR", "Verification", "open_model", "verify", "verify_ledger"]
