"""plan: what fit would try and why, without running any of it; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherweight.core.budget import Budget
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.core.workspace import measurements_of
from featherweight.export.exporters import exporter
from featherweight.plan.candidates import Candidate, candidates
from featherweight.plan.goal import Goal
from featherweight.plan.search import Doubt
from featherweight.plan.study import Study, bf16_file_bytes
from featherweight.verbs.prepare import (
    Settings,
    cache_folder,
    open_parent,
    open_study,
    read_text,
    require_stock,
    token_rows,
)


@dataclass(frozen=True)
class Outlook:
    """What is expected before anything is run.

    Attributes:
        study: the parent, the goal and the priors.
        candidates: recipes with expected damage, best first.
        curve: the expected frontier.
    """

    study: Study
    candidates: Sequence[Candidate]
    curve: Sequence[Candidate]

    def would_run(self, candidate: Candidate) -> bool:
        """Whether fit would try it if the first candidate turned out as expected."""
        best = self.candidates[0]
        return candidate is best or Doubt().least(candidate) < best.kl


def plan(
    model: str | Path,
    budget: Budget,
    *,
    format: str = "gguf",
    text: str | Path | None = None,
    settings: Settings | None = None,
    reuse: str | Path | None = None,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Outlook:
    """Candidates, their expected cost and the order in which fit would try them; see `fit` for the arguments."""
    settings, progress = settings or Settings(), progress or Progress()
    writer = exporter(format)
    documents = read_text(text)
    parent = open_parent(model, cache, trust)
    require_stock(parent)
    others = [measurements_of(Path(reuse), parent.fingerprint)] if reuse is not None else []
    goal = Goal.of(budget, bf16_file_bytes(parent, writer))
    rows = token_rows(parent, documents, settings, progress, cache_folder(cache), text)
    run = Run(rows.calibration, settings.seed, settings.device, parent, progress, Store(None, others))
    study = open_study(parent, writer, goal, rows, run, budget)
    return Outlook(study, candidates(study.prior, study.sizes()[:1]), study.curve)
