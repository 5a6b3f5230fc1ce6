"""Where did the child stop reasoning like its parent? The layer audit, judged.

The first place, in the order of computation, that drifted beyond noise is where it begins (`layer_facts` says what
that means). The layer that contributes most is the one across which the relative error of the states grows most; with
`restore` it is the one whose restoration lowers the divergence most, which is measured and not inferred. The two often
differ: where all blocks are rounded or pruned alike, drift says how bad a child is and not which block to mend
(`claims/layer_audit_smollm2.py`).

It informs. Only a limit of the user's makes a check: is the drift of every place at most that?

What it cannot see: a change that no probed module, no hidden state and no prediction shows on this text. What it shows
is correlation in the vocabulary of the labels given, except for the restoration.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherweight.core.errors import CheckpointError, OutputError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.measure.layer_compare import DRAWS, LayerComparison, compare_layers
from featherweight.measure.layers import LayerSettings
from featherweight.measure.monitor import monitor_of
from featherweight.measure.monitor_folder import save_monitor
from featherweight.measure.probe_rows import ProbeRows
from featherweight.measure.restoration import Restoration, restoration
from featherweight.verify.gate import Check, Verdict
from featherweight.verify.layer_facts import (
    CHANCE,
    Facts,
    Found,
    conceptogram_facts,
    conformity_facts,
    cost_facts,
    found_drift,
    largest_contribution,
    largest_own_error,
    left_out,
    restoration_facts,
    state_facts,
)
from featherweight.verify.section import Section

_RESTORED_TOKENS = 1024


def layers_section(
    parent: Model,
    child: Model,
    fit: ProbeRows,
    audit: ProbeRows,
    run: Run,
    *,
    settings: LayerSettings | None = None,
    limit: float | None = None,
    restore: bool = False,
    draws: int = DRAWS,
    monitor: Path | None = None,
) -> Section:
    """The layer audit of a language model as a part of a verification.

    Args:
        parent: the model to compare with; everything is fitted on it.
        child: the model in question.
        fit: calibration rows with labels.
        audit: other rows with the same labels.
        run: seed, device and progress.
        settings: how layers are looked at.
        limit: largest drift that any place may have; None = the audit informs and decides nothing.
        restore: also measure what putting back each layer would bring.
        draws: of noise.
        monitor: a new folder for a monitor of requests to the parent, and to the child where its shapes are the
            parent's; None = none is written.

    Raises:
        OutputError: the folder for the monitor exists.
        CheckpointError: a model of masks by domain, or of another vocabulary than the labels'.
    """
    if monitor is not None and monitor.exists():
        raise OutputError(str(monitor), "exists already", "choose another folder or remove it")
    compared = compare_layers(parent, child, fit, audit, run, settings, draws)
    if monitor is not None:
        models = [parent] if compared.child.missing else [parent, child]
        save_monitor(monitor_of(compared.peepholes, fit, models), monitor)
    restored, notes = _restored(parent, child, audit, run) if restore else (None, [])
    return section_of(compared, limit, restored, parent.parameters, notes)


def _restored(parent: Model, child: Model, audit: ProbeRows, run: Run) -> tuple[Restoration | None, list[str]]:
    try:
        return restoration(parent, child, audit.some(_RESTORED_TOKENS), run), []
    except CheckpointError as error:
        return None, [f"no restoration: the child {error.why}"]


def section_of(
    compared: LayerComparison,
    limit: float | None = None,
    restored: Restoration | None = None,
    parameters: int | None = None,
    notes: Sequence[str] = (),
) -> Section:
    """The section of a comparison that was made already, of language models or of other modules.

    Args:
        compared: the comparison.
        limit: largest drift that any place may have.
        restored: what restoring layers brings, where it was measured.
        parameters: of the parent, to say what looking costs; None = it is not said.
        notes: further sentences for a person.
    """
    found, states = found_drift(compared), state_facts(compared)
    facts: Facts = {
        "labels": list(compared.peepholes.names),
        "samples": len(compared.targets),
        "documents": len(compared.units.unique()),
        "rows": [each.to_dict() for each in found],
        "states": states,
        "first_difference": _first(each for each in found if float(each.place.variation.max()) > 0),
        "first_drift": _first(each for each in found if each.drifted),
        "first_state": next((state["name"] for state in states if state["drifted"]), None),
        "most": largest_contribution(states, restored),
        "own_error": largest_own_error(states),
        "conformity": conformity_facts(compared),
        "conceptograms": conceptogram_facts(compared),
        "cost": cost_facts(compared, parameters),
        "missing": dict(compared.child.missing),
        "restoration": None if restored is None else restoration_facts(restored),
        "notes": [*notes, *left_out(compared)],
    }
    return Section("layers", () if limit is None else (drift_check(found, limit, len(compared.child.missing)),), facts)


def _first(found: Any) -> Facts | None:
    """The first of some places."""
    first = next(found, None)
    if first is None:
        return None
    return {key: value for key, value in first.to_dict().items() if key in ("module", "side", "block", "drift")}


def drift_check(found: Sequence[Found], limit: float, missing: int = 0) -> Check:
    """Whether the drift of every place is within a limit.

    Fail: a one-sided interval, at 5 % for all places together, lies above it. Pass: every 95 % interval lies within,
    and no module had to be left out.

    Args:
        found: drift at every place.
        limit: the largest that is allowed.
        missing: modules that could not be compared.
    """
    asked = f"at most {limit:.1%} drift in every layer"
    if not found:
        return Check("layers", asked, "nothing to compare", Verdict.CANNOT_TELL, "the child's modules differ in shape")
    top = max(found, key=lambda each: each.drift.mean)
    said = f"{top.drift.mean:.1%} at {_named(top)}"
    over = [each for each in found if each.drift.above(CHANCE / len(found)) > limit]
    doubtful = [each for each in found if each.drift.interval(CHANCE)[1] > limit]
    if over:
        reason = f"{len(over)} of {len(found)} places lie above the limit, the first is {_named(over[0])}"
        return Check("layers", asked, said, Verdict.FAIL, reason)
    if doubtful:
        reason = f"the limit is inside the intervals of {len(doubtful)} places: more documents would decide"
        return Check("layers", asked, said, Verdict.CANNOT_TELL, reason)
    if missing:
        reason = "modules of another shape could not be compared"
        return Check("layers", asked, said, Verdict.CANNOT_TELL, reason)
    return Check("layers", asked, said, Verdict.PASS, "every interval lies within the limit")


def _named(found: Found) -> str:
    return found.place.module if found.place.side == "prediction" else f"{found.place.module} ({found.place.side})"
