"""What merge and unmerge leave behind: an ordinary model folder with a ledger, facts, and a page of its cosines."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.adapter_facts import FACTS as ADAPTER_FACTS
from featherweight.core.adapter_folder import CONFIG, WEIGHTS
from featherweight.core.checkpoint import Entry, digest_of_values
from featherweight.core.cosine_words import meaning
from featherweight.core.deltas import AdapterDelta, Delta, ModelDelta
from featherweight.core.errors import CheckpointError, MergeError, OutputError
from featherweight.core.gram import Grams, Pair
from featherweight.core.in_file import require_finite
from featherweight.core.in_threads import usual_threads
from featherweight.core.lazy import torch
from featherweight.core.memory import peak_memory
from featherweight.core.merge_ledger import KEPT, seal, write_merge
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.receipt import Ledger
from featherweight.core.run import Run
from featherweight.core.shards import Loader
from featherweight.core.source import open_folder
from featherweight.core.task_vector import write_task_vector
from featherweight.core.user_file import digest_of
from featherweight.core.whole import whole_folder
from featherweight.report.merge_page import write_merge_page
from featherweight.train.merge_technique import MergeTechnique, SummingMerge

PAGE = "merge.html"


@dataclass(frozen=True)
class Merged:
    """A merged model.

    Attributes:
        folder: where it is.
        facts: as in its `merge.json`: method, deltas with norms and weights, cosines, bytes, memory, seconds.
    """

    folder: Path
    facts: Mapping[str, Any]

    @property
    def page(self) -> Path:
        return self.folder / PAGE


@dataclass
class PlannedMerge:
    """A merge about to be made.

    Attributes:
        technique: with its models.
        base: theta_0, and how a person calls it.
        deltas: opened.
        expected: digests of deltas by name, where a ledger says what they must be.
        keep: whether the folder is to hold the deltas too.
        history: further lines of the ledger.
    """

    technique: MergeTechnique
    base: Model
    base_name: str
    deltas: Sequence[Delta]
    run: Run
    expected: Mapping[str, str] = field(default_factory=dict)
    keep: bool = False
    history: Sequence[Mapping[str, Any]] = ()

    def write(self, out: Path) -> Merged:
        """Merges and writes the folder, whole or not at all."""
        started = time.perf_counter()
        require_free(out)
        self.run.notes.clear()
        grams = self.technique.compared(self.base, self.deltas, self.run)
        require_digests(self.deltas, self.expected)
        weights = self.technique.weights(self.base, self.deltas, grams, self.run) if self.deltas else []
        model = self.technique.merged(self.base, self.deltas, grams, weights, self.run) if self.deltas else self.base
        with whole_folder(out) as draft:
            fingerprint = write_model(model, draft, self.run.progress).fingerprint
            facts = self._facts(grams, weights, fingerprint, model)
            ledger = self._ledger(draft, grams, weights, fingerprint, started)
            facts |= {"seconds": round(time.perf_counter() - started, 2), "peak_memory": peak_memory()}
            facts = seal(ledger, facts)
            write_merge_page(draft / PAGE, out.name, facts, grams)
        return Merged(out, facts)

    def _ledger(self, draft: Path, grams: Grams, weights: Sequence[float], fingerprint: str, started: float) -> Ledger:
        shared, own = split_fields(self.technique)
        rows = [
            (delta, norm, *_placed(own[index], delta.path))
            for index, (delta, norm) in enumerate(zip(self.deltas, grams.norms, strict=True))
        ]
        result = {
            "fingerprint": fingerprint, "weights": list(weights), "gram": grams.total.tolist(),
            "notes": dict(self.run.notes),
        }  # fmt: skip
        base = (self.base.fingerprint, self.base.nbytes, place(self.base_name))
        volatile = {"seconds": round(time.perf_counter() - started, 2), "peak_memory": peak_memory()}
        ledger = write_merge(draft, self.technique.name, shared, self.run.seed, base, rows, result, volatile)
        if self.keep and self.deltas:
            ledger.append({"step": "kept", "files": keep_deltas(draft, self.deltas, self.base)})
        for line in self.history:
            ledger.append(line)
        return ledger

    def _facts(self, grams: Grams, weights: Sequence[float], fingerprint: str, model: Model) -> dict[str, Any]:
        shared, _ = split_fields(self.technique)
        kept = _kept_norms(self.technique, grams)
        return {
            "method": self.technique.name,
            "fields": shared,
            "base": {"name": self.base_name, "fingerprint": self.base.fingerprint, "bytes": self.base.nbytes},
            "deltas": [
                {
                    "name": delta.name, "kind": delta.kind, "digest": delta.digest, "bytes": delta.nbytes,
                    "norm": norm, "kept": kept[index], "weight": weights[index],
                }
                for index, (delta, norm) in enumerate(zip(self.deltas, grams.norms, strict=True))
            ],
            "pairs": [_pair(each) for each in grams.pairs()],
            "meaning": meaning(grams) if len(self.deltas) > 1 else "",
            "tensors": {"all": len(self.base.entries), "changed": len(grams.by_tensor)},
            "fingerprint": fingerprint,
            "bytes": model.nbytes,
            "notes": dict(self.run.notes),
        }  # fmt: skip


def _pair(pair: Pair) -> dict[str, Any]:
    """Plain values; a cosine that does not exist is None."""
    return {**asdict(pair), "cosine": None if math.isnan(pair.cosine) else pair.cosine}


def require_digests(deltas: Sequence[Delta], expected: Mapping[str, str]) -> None:
    """Refuses a delta that is not what was merged; after a pass over it, its digest is known.

    Args:
        deltas: opened.
        expected: digests by name.

    Raises:
        MergeError: names the first one.
    """
    for delta in deltas:
        wanted = expected.get(delta.name)
        if wanted and delta.digest != wanted:
            raise MergeError(
                f"{delta.name} at {delta.path}", f"is not what was merged: its digest is {delta.digest[:12]}, and the "
                f"ledger says {wanted[:12]}", f"say where that is with --source {delta.name}=PATH",
            )  # fmt: skip


def require_free(out: Path) -> None:
    """Refuses an output that exists, before anything is read."""
    if out.exists():
        raise OutputError(str(out), "exists already", "choose another folder or remove it")


def write_model(model: Model, draft: Path, progress: Progress) -> Model:
    """Writes a model whose tensors are computed now; the same as it lies in the folder, its digests known."""
    noted = {name: _Noted(name, entry) for name, entry in model.entries.items()}
    entries = {name: dataclasses.replace(model.entries[name], load=each) for name, each in noted.items()}
    with progress.track("writing", len(entries)) as advance:
        dataclasses.replace(model, entries=entries).write(draft, lambda _: advance(), usual_threads())
    written = open_folder(draft, check=False)
    for name, each in noted.items():
        written.entries[name].__dict__["digest"] = each.digest
    return written


class _Noted:
    """Loads a tensor and notes its digest on the way."""

    def __init__(self, name: str, entry: Entry) -> None:
        self.name, self.entry, self.digest = name, entry, ""

    def __call__(self) -> torch.Tensor:
        return torch.cat([piece.reshape(-1).clone() for piece in self.pieces()]).reshape(self.entry.shape)

    def pieces(self) -> Iterator[torch.Tensor]:
        hashed = digest_of_values(self.entry.format, self.entry.shape)
        for piece in Loader(self.entry.format, self.entry.shape, self.entry.load).pieces():
            self._require_finite(piece)
            hashed.update(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            yield piece
        self.digest = hashed.hexdigest()

    def _require_finite(self, piece: torch.Tensor) -> None:
        try:
            require_finite(piece)
        except CheckpointError:
            raise MergeError(
                f"the merged {self.name}", f"is beyond what {self.entry.format} can hold",
                "use --dtype bfloat16 or float32, or smaller weights",
            ) from None  # fmt: skip


def split_fields(technique: MergeTechnique) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A technique's fields that are no model's own, and those of each model."""
    fields = technique.fields()
    names = [name for name in technique.by_model if name != "models"]
    own = [
        {
            name: fields[name][index] if isinstance(fields[name], list) else fields[name]
            for name in names
            if fields[name] != []
        }
        for index in range(len(technique.models))
    ]
    return {name: each for name, each in fields.items() if name not in technique.by_model}, own


def _placed(own: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A model's fields with files by their digest, and where it and these files are."""
    hashed, places = dict(own), {"path": place(str(path))}
    if "validation" in own:
        places["validation"] = place(str(own["validation"]))
        hashed["validation"] = digest_of(Path(own["validation"]))
    return hashed, places


def place(name: str) -> str:
    """A path that holds wherever it is read from; a name on the hub stays as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _kept_norms(technique: MergeTechnique, grams: Grams) -> list[float | None]:
    """Norm of what is merged of each delta at weight 1, over the delta's; None where that is no sum of deltas."""
    if not isinstance(technique, SummingMerge):
        return [None] * len(grams.names)
    basis, found = technique.basis(grams), list[float | None]()
    for index, norm in enumerate(grams.norms):
        sizes = [
            float(basis[name][index] @ gram @ basis[name][index]) for name, gram in sorted(grams.by_tensor.items())
        ]
        found.append(math.sqrt(max(math.fsum(sizes), 0.0)) / norm if norm else 1.0)
    return found


def keep_deltas(folder: Path, deltas: Sequence[Delta], base: Model) -> dict[str, dict[str, str]]:
    """Copies deltas into a folder as they are: adapters and task vectors whole, of a model the values that changed."""
    (folder / KEPT).mkdir()
    files = {}
    for number, delta in enumerate(deltas):
        target = folder / KEPT / f"{number:03d}"
        if isinstance(delta, ModelDelta):
            target = target.with_suffix(".safetensors")
            write_task_vector(target, delta, base, usual_threads())
        elif isinstance(delta, AdapterDelta):
            target.mkdir()
            for name in (CONFIG, WEIGHTS, ADAPTER_FACTS):
                if (delta.path / name).is_file():
                    shutil.copyfile(delta.path / name, target / name)
        else:
            target = target.with_suffix(".safetensors")
            shutil.copyfile(delta.path, target)
        digest = digest_of(target if target.is_file() else target / WEIGHTS)
        files[delta.name] = {"file": f"{KEPT}/{target.name}", "sha256": digest}
    return files
