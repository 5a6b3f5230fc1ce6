"""Makes the chosen model final: receipts for its steps, the exported file, and what is measured on that file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.budget import Budget
from featherweight.core.model import MASK, Model
from featherweight.core.receipt import Ledger, versions
from featherweight.core.recipe import Recipe
from featherweight.core.source import open_model
from featherweight.core.steps import Applied
from featherweight.core.whole import whole_folder
from featherweight.core.workspace import Workspace
from featherweight.export.card import write_card
from featherweight.measure.quality import Quality, by_domain, compare_once, summarize
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.goal import Measured
from featherweight.plan.order import Ordering
from featherweight.plan.search import Trial
from featherweight.plan.study import Study
from featherweight.verbs.timing import on_disk


@dataclass(frozen=True)
class Finished:
    """An exported candidate with what was measured on its file.

    Attributes:
        missed: limits that the file does not meet, by name.
        formats: format of every matrix, by parameter name.
        figures: the measured numbers, of the file and of the parent, for the report and the card.
    """

    trial: Trial
    closeness: float
    path: Path
    missed: list[str]
    formats: Mapping[str, str]
    figures: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {
            "name": self.trial.candidate.name,
            "recipe": self.trial.candidate.recipe.to_dict(),
            "steps": str(self.trial.candidate.recipe),
            "closeness": self.closeness,
            "path": self.path.name if self.path.is_file() else "",
            "missed": self.missed,
            **self.figures,
        }


def finish(
    study: Study,
    trial: Trial,
    closeness: float,
    evaluator: Evaluator,
    workspace: Workspace,
    budget: Budget,
    ordering: Ordering | None = None,
) -> Finished:
    """Exports a trial's model to `final/` and measures the written file; an earlier attempt there is replaced.

    What was measured of the order of steps (G, A, C*) goes into the receipt of the export.
    """
    recipe = trial.candidate.recipe
    steps = evaluator.steps(recipe)
    ledger = workspace.ledger()
    model = _receipts(study, steps, ledger)
    path = _export(study, model, recipe, workspace)
    figures = measure_file(study, path, budget)
    measured = Measured(
        figures["memory"], figures["quality"]["ratio_interval"][0], figures["latency"]["seconds"], figures["resident"]
    )
    content = {"step": "export", "file": path.name, **figures["hashed"]}
    content |= {"order": ordering.to_dict()} if ordering is not None else {}
    ledger.append_once(content, {"measured": measured.to_dict()})
    kinds = {
        name: entry.format for name, entry in model.entries.items() if len(entry.shape) == 2 and entry.format != MASK
    }
    finished = Finished(trial, closeness, path, study.goal.misses(measured), kinds, figures)
    _describe(study, finished, workspace)
    return finished


def _receipts(study: Study, steps: list[Applied], ledger: Ledger) -> Model:
    """One receipt a step, with the quality before and after it on the held-out rows."""
    model = study.parent
    before = _quality(study, model)
    for applied in steps:
        after = before if applied.model.fingerprint == model.fingerprint else _quality(study, applied.model)
        content = {**applied.content, "quality": {"before": before, "after": after}}
        receipt = ledger.append_once(content, applied.volatile)
        model, before = applied.model.with_receipt(receipt.digest), after
    return model


def _quality(study: Study, model: Model) -> dict[str, Any]:
    return summarize(compare_once(study.parent, model, study.held_out, study.run)).to_dict()


def _export(study: Study, model: Model, recipe: Recipe, workspace: Workspace) -> Path:
    """Writes `final/` whole or not at all, and reloads the file as part of it."""
    if workspace.final.exists():
        shutil.rmtree(workspace.final)
    with whole_folder(workspace.final) as draft:
        path = study.exporter.write(model, draft)
        study.exporter.check(model, path)
        (draft / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        relative = path.relative_to(draft)
    return workspace.final / relative


def measure_file(study: Study, path: Path, budget: Budget) -> dict[str, Any]:
    """Bytes, quality by domain, decode time and resident memory of a written file, and the same of the parent's."""
    child = open_model(path, study.run.scratch)  # its tokenizer is unpacked there, not in the user's cache
    scores = compare_once(study.parent, child, study.held_out, study.run)
    domains = {name: each.to_dict() for name, each in by_domain(scores).items()}
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    memory = sum(each.stat().st_size for each in files)
    resident = study.exporter.resident(path, budget.context, budget.threads)
    quality: Quality = summarize(scores)
    names = {each: each.relative_to(path).as_posix() if path.is_dir() else each.name for each in files}
    digests = {name: _sha256(each) for each, name in names.items()}
    hashed = {"bytes": memory, "sha256": digests, "fingerprint": child.fingerprint}
    return {
        "memory": memory,
        "quality": quality.to_dict(),
        "domains": domains,
        "latency": dict(study.exporter.latency(path, budget.threads)),
        "resident": resident,
        "hashed": {**hashed, "quality": quality.to_dict()},
        "parent": _parent_figures(study, budget),
    }


def _parent_figures(study: Study, budget: Budget) -> dict[str, Any]:
    """The parent's own file in bf16, measured in the same way; kept in the store."""
    facts = {"model": study.parent.fingerprint, "threads": budget.threads, "context": budget.context}

    def measure() -> dict[str, Any]:
        found: dict[str, Any] = {}

        def each(path: Path) -> float:
            found["latency"] = dict(study.exporter.latency(path, budget.threads))
            found["resident"] = study.exporter.resident(path, budget.context, budget.threads)
            return 0.0

        on_disk(study.parent, study.exporter, study.run, each)
        return {**found, "memory": study.parent_bytes}

    return dict(study.run.store.json("parent-figures", {**facts, "format": study.exporter.name}, measure))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(study: Study, finished: Finished, workspace: Workspace) -> None:
    """The model card, and a copy of the ledger, beside the exported file."""
    parent, figures = study.parent, finished.figures
    quality, before = figures["quality"], figures["parent"]
    low, high = quality["ratio_interval"]
    write_card(workspace.final, {
        "name": workspace.folder.name,
        "format": study.exporter.card,
        "file": finished.path.name,
        "parent": f"{parent.architecture.class_name} {parent.fingerprint[:12]}",
        "measured": [
            {"quantity": "file", "parent": before["memory"], "result": figures["memory"], "unit": "bytes"},
            {"quantity": "resident", "parent": before["resident"], "result": figures["resident"], "unit": "bytes"},
            {
                "quantity": "decode", "unit": "ms a token", "parent": round(before["latency"]["seconds"] * 1e3, 2),
                "result": round(figures["latency"]["seconds"] * 1e3, 2),
            },
            {
                "quantity": "perplexity", "parent": round(quality["parent_perplexity"], 3),
                "result": round(quality["child_perplexity"], 3),
            },
            {
                "quantity": "quality (perplexity ratio, 95 % interval)", "parent": 1.0,
                "result": f"{quality['ratio']:.4f} ({low:.4f} to {high:.4f})",
            },
            {"quantity": "KL to the parent", "parent": 0.0, "result": round(quality["kl"], 5), "unit": "nats a token"},
            {"quantity": "same most likely token", "parent": 1.0, "result": round(quality["agreement"], 4)},
        ],
        "recipe": finished.trial.candidate.recipe.to_yaml(),
        "lineage": [
            {"step": receipt.content.get("technique") or receipt.content.get("step"), "receipt": receipt.digest}
            for receipt in workspace.ledger()
        ],
        "notes": [
            f"Quality was measured on {quality['tokens']} held-out tokens of {quality['documents']} documents.",
            *(f"Limit not met: {name}." for name in finished.missed),
        ],
        "environment": versions(),
    })  # fmt: skip
    shutil.copyfile(workspace.ledger().path, workspace.final / "ledger.jsonl")
