"""safety: puts the cases of a policy to one model, with a receipt for every answer, and judges it by its thresholds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import OutputError, PolicyError
from featherweight.core.fields import built
from featherweight.core.labels import Role
from featherweight.core.policy import Policy, Sets
from featherweight.core.policy_file import read_policy
from featherweight.core.progress import Progress
from featherweight.core.receipt import Ledger
from featherweight.core.workspace import open_workspace
from featherweight.measure.answers import Generation
from featherweight.measure.calibration import read_labelled_answers
from featherweight.measure.labelling import labeller_of
from featherweight.measure.safety import SafetyRun
from featherweight.measure.safety_statistics import statistics
from featherweight.report.safety_rows import places_of
from featherweight.verbs.asking import Asking, judging
from featherweight.verbs.safety_output import Evidence, finish, gather_facts
from featherweight.verify.gate import Check, Verdict
from featherweight.verify.safety_thresholds import safety_section
from featherweight.verify.section import Section

_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class SafetyResult:
    """Where the evidence is, and what was found, as written to `result.json`."""

    folder: Path
    section: Section
    facts: Mapping[str, Any]

    @property
    def checks(self) -> Sequence[Check]:
        """One for each threshold of the policy."""
        return self.section.checks

    @property
    def verdict(self) -> Verdict:
        """Of all thresholds together; pass where there is none."""
        return self.section.verdict


def safety(
    model: str | Path,
    policy: str | Path | Policy | Mapping[str, str | Path],
    out: str | Path,
    *,
    asking: Asking | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> SafetyResult:
    """Puts every case of a policy to a model and writes a folder of evidence, whole or not at all.

    Args:
        model: a model folder, a .gguf file, smollm2-135m, a hub name, or the address of an OpenAI-compatible server.
        policy: a policy, the path of one, or files of cases by role.
        out: the folder; while the run goes on, its receipts are in a hidden folder beside it.
        asking: how the model is reached.
        resume: go on with an interrupted run.
        progress: shows what is going on.

    Raises:
        FeatherweightError: a bad policy, case file, model or address, before anything is written.
    """
    started, target = time.perf_counter(), Path(out)
    asking, declared = asking or Asking(), policy_of(policy)
    sets = declared.case_sets()
    labelled = read_labelled_answers(declared.labelled) if declared.labelled else None
    labeller_of(declared)  # an unknown plug-in is named before a model is loaded
    _require_free(target, resume)
    with asking.connect(model) as connector, judging(declared, asking) as judge:
        labeller = labeller_of(declared, judge)
        drawing = Generation(**declared.generation.model_dump())
        run = SafetyRun(sets, connector, labeller, drawing, declared.runs, declared.store_text)
        inputs = {**run.inputs, "labelled": labelled.digest if labelled else None}
        workspace = open_workspace(unfinished(target), inputs, resume)
        ledger = Ledger(workspace.folder / "ledger.jsonl", _SYNC_SECONDS)
        receipts = run.write(ledger, progress)
        calibration = labelled.calibrate(labeller, drawing.batch) if labelled else None
    section = safety_section(statistics(receipts, calibration), declared.thresholds)
    places = places_of(sets, declared.sets.paths())
    evidence = Evidence(str(model), run.inputs, list(ledger), section, declared.facts(), places, calibration)
    facts = gather_facts(evidence, time.perf_counter() - started)
    finish(workspace.folder, target, evidence, facts)
    (target / "run.json").unlink()
    return SafetyResult(target, section, facts)


def policy_of(given: str | Path | Policy | Mapping[str, str | Path]) -> Policy:
    """A policy from whatever a person has: one, its path, or files of cases by role.

    Raises:
        PolicyError: it is none, or names a role that there is not.
    """
    if isinstance(given, Policy):
        return given
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - {role.value for role in Role})
        if unknown or not given:
            raise PolicyError(
                f"sets {', '.join(map(repr, unknown)) or 'of cases'}", "are none",
                f"give files for {', '.join(role.value for role in Role)}",
            )  # fmt: skip
        return Policy(sets=built(Sets, given, "the files", PolicyError, "give those of direct cases too"))
    return read_policy(given)


def unfinished(target: Path) -> Path:
    """Where a run keeps its receipts until it is done."""
    return target.with_name(f".{target.name}.unfinished")


def _require_free(target: Path, resume: bool) -> None:
    """Refuses a folder that is there, and an interrupted run that nobody wants to go on with.

    Raises:
        OutputError: names it.
    """
    if target.exists():
        raise OutputError(str(target), "exists already", "choose another folder or remove it")
    if unfinished(target).exists() and not resume:
        raise OutputError(str(target), "has an interrupted run", f"add --resume, or remove {unfinished(target)}")
