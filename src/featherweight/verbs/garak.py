"""garak: runs it against a model, or reads a report that it left, into the same evidence as a safety run's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.progress import Progress
from featherweight.core.receipt import Ledger
from featherweight.core.whole import whole_folder
from featherweight.measure.answers import Generation
from featherweight.measure.garak_engine import garak_python, run_garak
from featherweight.measure.garak_receipts import SET, garak_inputs, write_garak
from featherweight.measure.garak_report import GarakReport, read_garak
from featherweight.measure.safety_statistics import statistics
from featherweight.verbs.asking import Asking
from featherweight.verbs.safety import SafetyResult
from featherweight.verbs.safety_output import Evidence, finish, gather_facts
from featherweight.verify.safety_thresholds import section_of

_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Probing:
    """What garak is to do.

    Attributes:
        probes: names as garak knows them, such as "test.Test".
        python: an interpreter that has garak; None = ours, if it has it.
        generation: how answers are drawn.
        generations: answers a prompt.
    """

    probes: Sequence[str]
    python: Path | None = None
    generation: Generation = field(default_factory=Generation)
    generations: int = 1


def garak(
    model: str | Path,
    probing: Probing,
    out: str | Path,
    *,
    least: float | None = None,
    store_text: bool = True,
    asking: Asking | None = None,
    progress: Progress | None = None,
) -> SafetyResult:
    """Lets garak put its probes to a model, and writes a folder of evidence, whole or not at all.

    Args:
        model: as for `safety`; it is served to garak on a loopback port.
        probing: which probes, and how.
        out: the folder.
        least: share of prompts to be passed; None = nothing is decided.
        store_text: keep answers, or only their hashes.
        asking: how the model is reached.
        progress: shows what is going on.

    Raises:
        MissingExtra: no interpreter has garak; DataError: garak fails.
    """
    started = time.perf_counter()
    if not probing.probes:
        raise DataError("garak", "has no probe to run", "name some, such as test.Test")
    python = garak_python(probing.python)
    (progress or Progress()).say(f"garak puts {', '.join(probing.probes)} to {model}")
    with whole_folder(Path(out)) as draft, tempfile.TemporaryDirectory(prefix="featherweight-garak-") as scratch:
        with (asking or Asking()).connect(model) as connector:
            facts = dict(connector.facts)
            report = run_garak(
                connector, probing.probes, probing.generation, Path(scratch), python, probing.generations
            )
        return _write(draft, Path(out), report, str(model), facts, least, store_text, started)


def import_garak(
    report: str | Path,
    out: str | Path,
    *,
    hitlog: str | Path | None = None,
    least: float | None = None,
    store_text: bool = True,
) -> SafetyResult:
    """Reads a report that garak left, and writes a folder of evidence, whole or not at all.

    Args:
        report: its .report.jsonl.
        out: the folder.
        hitlog: its .hitlog.jsonl, to be held against the report; None = the one beside it, if there is one.
        least: share of prompts to be passed; None = nothing is decided.
        store_text: keep answers, or only their hashes.

    Raises:
        DataError: a line is no part of a report, or something does not add up.
    """
    started, path = time.perf_counter(), Path(report)
    beside = path.with_name(path.name.replace(".report.jsonl", ".hitlog.jsonl"))
    hits = Path(hitlog) if hitlog is not None else beside if beside != path and beside.is_file() else None
    found = read_garak(path, hits)
    with whole_folder(Path(out)) as draft:
        return _write(draft, Path(out), found, found.target, None, least, store_text, started)


def _write(
    draft: Path, target: Path, report: GarakReport, name: str, model: Mapping[str, Any] | None, least: float | None,
    store_text: bool, started: float,
) -> SafetyResult:  # fmt: skip
    inputs = garak_inputs(report, model)
    ledger = Ledger(draft / "ledger.jsonl", _SYNC_SECONDS)
    receipts = write_garak(ledger, report, inputs, store_text)
    section = section_of(statistics(receipts), {} if least is None else {SET: least})
    evidence = Evidence(name, inputs, list(ledger), section)
    facts = gather_facts(evidence, time.perf_counter() - started)
    finish(draft, draft, evidence, facts)
    return SafetyResult(target, section, facts)
