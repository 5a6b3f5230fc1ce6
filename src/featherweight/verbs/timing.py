"""What the parent takes in the runtime, and the model of decode time, measured only where a limit asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from featherweight.core.budget import Budget
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.technique import build
from featherweight.plan.cost import LatencyModel, fit_latency, stored_formats
from featherweight.plan.exporter import Exporter
from featherweight.plan.goal import Goal

_PROBES = {"gguf": ("Q8_0", "Q5_1", "Q4_0"), "compressed-tensors": ("int8-g64", "int4-g64")}


@dataclass(frozen=True)
class ParentFigures:
    """Measured figures of the parent.

    Attributes:
        latency_model: None where no latency limit is set.
        resident_overhead: resident bytes beyond the file; None where no such limit is set.
    """

    latency_model: LatencyModel | None = None
    resident_overhead: int | None = None


def parent_figures(parent: Model, writer: Exporter, run: Run, budget: Budget, goal: Goal) -> ParentFigures:
    """Measures what the goal's limits need; kept in the run's store."""
    latency_model = _latency_model(parent, writer, run, budget) if goal.latency is not None else None
    overhead = None
    if goal.resident is not None:
        facts = {"model": parent.fingerprint, "context": budget.context, "threads": budget.threads}
        overhead = int(run.store.json("resident-overhead", facts, lambda: _overhead(parent, writer, run, budget)))
    return ParentFigures(latency_model, overhead)


def _latency_model(parent: Model, writer: Exporter, run: Run, budget: Budget) -> LatencyModel:
    """Fitted to the parent as it is and in a few formats, rounded to nearest: speed does not depend on the values."""
    facts = {"model": parent.fingerprint, "threads": budget.threads, "probes": _PROBES[writer.runtime]}
    points = run.store.json("decode-times", facts, lambda: _decode_times(parent, writer, run, budget))
    return fit_latency([(totals, seconds) for totals, seconds in points])


def _decode_times(parent: Model, writer: Exporter, run: Run, budget: Budget) -> list[tuple[Mapping[str, int], float]]:
    kinds = _PROBES[writer.runtime]
    points: list[tuple[Mapping[str, int], float]] = []
    with run.progress.track("timing the runtime", len(kinds) + 1) as advance:
        for kind in (None, *kinds):
            embedding = kind if writer.runtime == "gguf" else "keep"
            model = (
                parent if kind is None else build("rtn", {"format": kind, "embedding": embedding}).apply(parent, run)
            )
            seconds = on_disk(model, writer, run, lambda path: float(writer.latency(path, budget.threads)["seconds"]))
            points.append((_as_written(model, writer), seconds))
            advance()
    return points


def decode_seconds(model: Model, writer: Exporter, run: Run, budget: Budget) -> float:
    """Seconds a decoded token; measured once for all models with the same shapes and formats, whatever the values."""
    layout = {name: [entry.format, list(entry.shape)] for name, entry in model.entries.items()}
    facts = {"config": dict(model.config), "layout": layout, "runtime": writer.runtime, "threads": budget.threads}

    def measure() -> float:
        return on_disk(model, writer, run, lambda path: float(writer.latency(path, budget.threads)["seconds"]))

    return float(run.store.json("latency", facts, measure))


def _as_written(model: Model, writer: Exporter) -> dict[str, int]:
    """Bytes a format of the exported file, where wide matrices are bf16 whatever the parent has."""
    totals = stored_formats(model)
    wide = sum(totals.pop(kind, 0) // (2 if kind == "F32" else 1) for kind in ("F32", "BF16", "F16"))
    return {**totals, "BF16": wide} if wide else totals


def _overhead(parent: Model, writer: Exporter, run: Run, budget: Budget) -> int:
    def measure(path: Path) -> float:
        size = (
            path.stat().st_size if path.is_file() else sum(each.stat().st_size for each in path.glob("*.safetensors"))
        )
        return float(writer.resident(path, budget.context, budget.threads) - size)

    return int(on_disk(parent, writer, run, measure))


def on_disk(model: Model, writer: Exporter, run: Run, measure: object) -> float:
    """Writes a model to a temporary folder, measures it there, removes it."""
    assert callable(measure)
    if run.scratch is not None:
        run.scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=run.scratch, prefix="timed-") as folder:
        return float(measure(writer.write(model, Path(folder))))
