"""unmerge: takes fine-tunes out of a merged folder, and measures what of them remains.

    import featherweight as fw
    fw.unmerge("merged", "ft-b", "without-b")                      # rebuild: as if ft-b had never been merged
    fw.unmerge("merged", "ft-b", "without-b", mode="subtract")     # theta_M - a_b Q_b

`rebuild` merges the others anew from the base: bit for bit the model that merging them alone gives; coefficients that
were fitted are fitted again without what went. `subtract` needs only the fine-tunes up to the one that goes, and leaves
its influence on those that came after it: their Q was made orthogonal to it, and stays so.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featherweight.core.combining import with_sums
from featherweight.core.deltas import Delta, ModelDelta
from featherweight.core.errors import FeatherweightError, MergeError
from featherweight.core.gram import Grams, measure_grams
from featherweight.core.memory import forget_peak, peak_memory
from featherweight.core.merge_ledger import FACTS, KEPT, LEDGER, MergeRecord, read_merge, seal
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.receipt import Ledger
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.store import Store
from featherweight.core.user_file import read_json_object
from featherweight.core.whole import whole_folder
from featherweight.report.merge_page import write_merge_page
from featherweight.train.merge_technique import MergeTechnique, SummingMerge
from featherweight.verbs.merge import built, require_device
from featherweight.verbs.merge_folder import PAGE, Merged, PlannedMerge, require_digests, require_free, write_model
from featherweight.verbs.merge_sources import open_base, open_recorded
from featherweight.verbs.residual import Residual, distance_from_rebuild, residual

Mode = Literal["rebuild", "subtract"]


@dataclass(frozen=True)
class Unmerged:
    """A model without some of its fine-tunes.

    Attributes:
        merged: where it is and what it holds.
        mode: how it was made.
        residuals: what remains along each removed delta.
        from_rebuild: of a subtraction: distance to the rebuilt model over the norm of its change; None = not known.
    """

    merged: Merged
    mode: Mode
    residuals: tuple[Residual, ...]
    from_rebuild: float | None = None

    @property
    def folder(self) -> Path:
        return self.merged.folder


def unmerge(
    folder: str | Path,
    names: str | Sequence[str],
    out: str | Path,
    *,
    mode: Mode = "rebuild",
    base: str | Path | None = None,
    sources: Mapping[str, str | Path] | None = None,
    device: str = "cpu",
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Unmerged:
    """Takes fine-tunes out of a merged folder.

    Args:
        folder: that merge wrote.
        names: which, by name, path or digest.
        out: folder of the result.
        mode: "rebuild" or "subtract".
        base: where the base is now; None = where it was.
        sources: where fine-tunes are now, by name; others are looked for where they were.
        device: for fitting coefficients.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.

    Raises:
        MergeError: the folder was not merged here or has changed, holds no such fine-tune, or what is needed is gone.
        LedgerError: the ledger does not hold; the line is named.
    """
    forget_peak()
    require_free(Path(out))
    require_device(device)
    if mode not in ("rebuild", "subtract"):
        raise MergeError(f"--mode {mode!r}", "is no way to unmerge", "use rebuild or subtract")
    record = read_merge(Path(folder))
    gone = sorted({record.index(name) for name in ([names] if isinstance(names, str) else names)})
    if not gone:
        raise MergeError(f"unmerging {folder}", "names no model to take out", "name at least one")
    before = _unchanged(record)
    model = open_base(record, base, cache, trust)
    work = _Unmerging(record, before, model, gone, dict(sources or {}), cache, trust, Path(out), progress or Progress())
    return work.rebuild(str(base or record.base_path), device) if mode == "rebuild" else work.subtract()


def _unchanged(record: MergeRecord) -> Model:
    """The merged model, if it is the one that the ledger describes."""
    model = open_folder(record.folder, check=False)
    if model.fingerprint != record.fingerprint:
        raise MergeError(
            str(record.folder), "holds other weights than its ledger says", "restore it from a copy, or merge again"
        )
    return model


@dataclass(frozen=True)
class _Unmerging:
    """One unmerge; `gone` are positions in the ledger."""

    record: MergeRecord
    before: Model
    base: Model
    gone: Sequence[int]
    sources: Mapping[str, str | Path]
    cache: Path | None
    trust: bool
    out: Path
    progress: Progress

    @property
    def names(self) -> list[str]:
        return [self.record.deltas[index].name for index in self.gone]

    def rebuild(self, base_name: str, device: str) -> Unmerged:
        """Merges the others anew."""
        record = self.record
        out = {*self.gone, *(index for index, each in enumerate(record.deltas) if each.name in record.subtracted)}
        left = [index for index in range(len(record.deltas)) if index not in out]
        deltas = self._open(left)
        run = Run(seed=record.seed, device=device, progress=self.progress, store=Store())
        history = [{"step": "history", "of": record.head, "done": f"rebuilt without {', '.join(self.names)}"}]
        technique = self._technique(left, [str(each.path) for each in deltas])
        planned = PlannedMerge(technique, self.base, base_name, deltas, run, record.digests, bool(record.kept), history)
        merged = planned.write(self.out)
        return Unmerged(merged, "rebuild", self._residuals(open_folder(self.out, check=False)))

    def subtract(self) -> Unmerged:
        """theta_M - a_k Q_k, in float64 and rounded once."""
        started = time.perf_counter()
        technique = self._technique(range(len(self.record.deltas)), [each.path for each in self.record.deltas])
        weights = self.record.weights
        if not isinstance(technique, SummingMerge) or technique.share(weights) != 1:
            raise MergeError(
                f"--mode subtract with {technique.name}", "is not defined: what is merged of one model depends on the "
                "others", "use --mode rebuild",
            )  # fmt: skip
        deltas = self._all_or_needed()
        grams = measure_grams(self.base, deltas, self.progress)
        require_digests(deltas, self.record.digests)
        taken = _taken(technique, grams, weights, self.gone)
        merged = ModelDelta(self.record.folder.name, self.record.folder, self.before)
        coefficients = {name: [1.0, *taken.get(name, ())] for name in self.base.entries}
        model = with_sums(self.base, [merged, *deltas], coefficients, dtype=technique.dtype)
        distance = None
        if len(deltas) == len(self.record.deltas) and not self.record.subtracted:
            distance = distance_from_rebuild(technique, grams, weights, self.gone)
        return self._write(model, grams, started, distance)

    def _write(self, model: Model, grams: Grams, started: float, distance: float | None) -> Unmerged:
        """The subtracted model with the ledger that it had, a line longer."""
        folder = self.record.folder
        facts = read_json_object(folder / FACTS, MergeError, "merge again")
        with whole_folder(self.out) as draft:
            written = write_model(model, draft, self.progress)
            fingerprint, residuals = written.fingerprint, self._residuals(written)
            shutil.copyfile(folder / LEDGER, draft / LEDGER)
            if (folder / KEPT).is_dir():
                shutil.copytree(folder / KEPT, draft / KEPT)
            ledger = Ledger(draft / LEDGER)
            plain = [each.to_dict() for each in residuals]
            ledger.append({"step": "subtracted", "names": self.names, "fingerprint": fingerprint, "residuals": plain})
            facts |= {
                "fingerprint": fingerprint, "subtracted": [*self.record.subtracted, *self.names],
                "seconds": round(time.perf_counter() - started, 2), "peak_memory": peak_memory(),
            }  # fmt: skip
            facts = seal(ledger, facts)
            write_merge_page(draft / PAGE, self.out.name, facts, grams)
        return Unmerged(Merged(self.out, facts), "subtract", residuals, distance)

    def _open(self, wanted: Sequence[int]) -> list[Delta]:
        return open_recorded(self.record, wanted, self.base, self.sources, self.cache, self.trust)

    def _all_or_needed(self) -> list[Delta]:
        """All deltas where they are still there; a subtraction needs those up to the last that goes."""
        count, needed = len(self.record.deltas), max(self.gone) + 1
        deltas = self._open(range(needed))
        try:
            return [*deltas, *self._open(range(needed, count))]
        except FeatherweightError:
            return deltas

    def _technique(self, kept: Sequence[int], paths: Sequence[str]) -> MergeTechnique:
        chosen = [self.record.deltas[index] for index in kept]
        fields = chosen[0].fields if chosen else {}
        own = {name: [each.fields[name] for each in chosen] for name in fields}
        return built(self.record.method, paths, {**self.record.fields, **own})

    def _residuals(self, after: Model) -> tuple[Residual, ...]:
        return tuple(self._residual(index, after) for index in self.gone)

    def _residual(self, index: int, after: Model) -> Residual:
        try:
            [delta] = self._open([index])
        except FeatherweightError:
            return Residual(self.record.deltas[index].name, self.record.deltas[index].norm)
        return residual(self.base, self.before, after, delta, self.progress)


def _taken(
    technique: SummingMerge, grams: Grams, weights: Sequence[float], gone: Sequence[int]
) -> dict[str, list[float]]:
    """What the deltas are multiplied by to make minus the sum of a_k Q_k, by tensor."""
    scaled = technique.scaled(weights)
    found = {}
    for name, matrix in technique.basis(grams).items():
        row = matrix.new_zeros(matrix.shape[1])
        for index in gone:
            row -= scaled[index] * matrix[index]
        found[name] = row.tolist()
    return found
