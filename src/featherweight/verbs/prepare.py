"""What fit, plan, apply and verify start with: the parent, its text as token rows, its exporter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.budget import Budget
from featherweight.core.chat import write_chat
from featherweight.core.data import Documents, TokenSet, default_documents, read_documents, split_rows
from featherweight.core.errors import CheckpointError, FeatherweightError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.source import default_cache, open_model
from featherweight.core.store import Store
from featherweight.plan.exporter import Exporter
from featherweight.plan.goal import Goal
from featherweight.plan.joint_space import Mode, Sizes
from featherweight.plan.study import Study
from featherweight.verbs.timing import parent_figures


@dataclass(frozen=True)
class Settings:
    """How much is spent on deciding; every number is part of a run's inputs.

    Attributes:
        length: tokens a row.
        calibration_rows, selection_rows, held_out_rows: rows to tune on, to choose on, to judge on.
        probe_rows: rows of a candidate's first look.
        trials: variations that Optuna tries around the best candidate.
        seed: of every random choice.
        device: "cpu" or "cuda".
        search: where candidates come from: "planner"; "joint", a search of sizes and formats together; "sequential",
            the control of that.
        search_rounds: turns of such a search.
        search_space: sizes to choose from instead of the usual ones, by decision.
    """

    length: int = 256
    calibration_rows: int = 24
    selection_rows: int = 18
    held_out_rows: int = 24
    probe_rows: int = 6
    trials: int = 1
    seed: int = 0
    device: str = "cpu"
    search: Mode = "planner"
    search_rounds: int = 10
    search_space: Sizes = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rows:
    """Token rows of the three splits."""

    calibration: TokenSet
    selection: TokenSet
    held_out: TokenSet

    def to_dict(self) -> dict[str, Any]:
        """Digest, tokens and domains of each split."""
        return {
            name: {
                "digest": rows.digest,
                "tokens": rows.count,
                "domains": {domain: rows.domains.count(domain) for domain in dict.fromkeys(rows.domains)},
            }
            for name, rows in (
                ("calibration", self.calibration), ("selection", self.selection), ("held-out", self.held_out),
            )
        }  # fmt: skip


def open_parent(name: str | Path, cache: Path | None = None, trust: bool = False) -> Model:
    """The parent model, checked: readable, of a known architecture, without NaN."""
    model = open_model(name, cache, trust)
    _ = model.fingerprint
    return model


def require_stock(model: Model) -> None:
    """Refuses a model of a class of ours: candidates are for runtimes that know stock classes only.

    Raises:
        CheckpointError: it is one.
    """
    if model.architecture.variant:
        raise CheckpointError(
            str(model.folder), f"is of the class {model.architecture.class_name}, with masks by domain",
            "fold it to one domain first: apply the step routed-lottery with fold",
        )  # fmt: skip


def read_text(text: str | Path | None) -> Documents | None:
    """The user's documents, or None for the default text."""
    return None if text is None else read_documents(str(text))


def token_rows(
    model: Model,
    documents: Documents | None,
    settings: Settings,
    progress: Progress,
    cache: Path,
    text: str | Path | None = None,
) -> Rows:
    """Rows of the user's text, or of the default: prose and code that every Python has, chat that the model writes.

    `text` is what the user called it, for errors.

    Raises:
        DataError: a split is too short for two rows.
        FeatherweightError: there is no such device.
    """
    check_device(settings.device)
    if documents is None:
        chat_run = Run(
            seed=settings.seed, device=settings.device, progress=progress, store=Store(cache / "measurements")
        )
        documents = {**default_documents(), "chat": write_chat(model, chat_run)}
    counts = {
        "calibration": settings.calibration_rows, "selection": settings.selection_rows,
        "held-out": settings.held_out_rows,
    }  # fmt: skip
    called = str(text or "the default text")
    made = split_rows(documents, model.tokenizer, counts, settings.length, called, settings.seed)
    return Rows(made["calibration"], made["selection"], made["held-out"])


def check_device(name: str) -> None:
    """Refuses a device that this machine does not have."""
    usable = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if name.split(":")[0] not in usable:
        raise FeatherweightError(f"--device {name!r}", "is no device of this machine", f"use {' or '.join(usable)}")


def cache_folder(cache: Path | None) -> Path:
    """Where converted models and self-written chat are kept."""
    return cache or default_cache()


def open_study(parent: Model, writer: Exporter, goal: Goal, rows: Rows, run: Run, budget: Budget) -> Study:
    """The study of a goal, with those figures of the parent that its limits ask for."""
    figures = parent_figures(parent, writer, run, budget, goal)
    return Study(
        parent, writer, goal, rows.calibration, rows.selection, rows.held_out, run,
        figures.latency_model, figures.resident_overhead,
    )  # fmt: skip
