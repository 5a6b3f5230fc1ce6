"""Finds the base and the deltas of a merged folder again: where they were, where a person says, or in the folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from featherweight.core.adapter_folder import WEIGHTS
from featherweight.core.delta_sources import open_delta
from featherweight.core.deltas import Delta
from featherweight.core.errors import MergeError
from featherweight.core.merge_ledger import DeltaRecord, MergeRecord
from featherweight.core.model import Model
from featherweight.core.source import open_model
from featherweight.core.task_vector import VectorDelta
from featherweight.core.user_file import digest_of


def open_base(record: MergeRecord, given: str | Path | None, cache: Path | None, trust: bool) -> Model:
    """The base that the folder was merged from.

    Raises:
        MergeError: it is another one.
        CheckpointError: it is not there.
    """
    name = given if given is not None else record.base_path
    model = open_model(name, cache, trust, check=False)
    if model.fingerprint != record.base:
        raise MergeError(
            str(name), f"is not the base of {record.folder}: its fingerprint is {model.fingerprint[:12]}, and the "
            f"ledger says {record.base[:12]}", "say where the base is with --base",
        )  # fmt: skip
    return model


def open_recorded(
    record: MergeRecord, wanted: Iterable[int], base: Model, given: Mapping[str, str | Path], cache: Path | None,
    trust: bool,
) -> list[Delta]:  # fmt: skip
    """Some of the deltas that were merged.

    Args:
        record: the ledger.
        wanted: their positions.
        base: theta_0.
        given: where some of them are now, by name.
        cache: where converted models are kept.
        trust: allow pickled weights.

    Raises:
        MergeError: one is nowhere, or a name is none of the ledger's.
    """
    names = [each.name for each in record.deltas]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise MergeError(
            f"--source {unknown[0]}", f"is no model of {record.folder}", f"it holds {', '.join(names) or 'none'}"
        )
    chosen = [record.deltas[index] for index in wanted]
    for each in chosen:
        _require_text(each)
    return [_open(record, each, base, given, cache, trust) for each in chosen]


def _require_text(delta: DeltaRecord) -> None:
    """Refuses a validation text that coefficients would now be fitted on differently."""
    path = delta.fields.get("validation")
    if path is not None and (not Path(path).is_file() or digest_of(Path(path)) != delta.text):
        raise MergeError(
            f"validation text of {delta.name}", f"is not at {path} any more, or was changed", "put it back"
        )


def _open(
    record: MergeRecord, delta: DeltaRecord, base: Model, given: Mapping[str, str | Path], cache: Path | None,
    trust: bool,
) -> Delta:  # fmt: skip
    if delta.name in given:
        return open_delta(given[delta.name], delta.name, base, cache, trust)
    if delta.name in record.kept:
        return _kept(record, delta, base)
    for path in (Path(delta.path), record.folder.parent / delta.name):
        if path.exists() or not path.is_absolute():  # a name on the hub
            return open_delta(path, delta.name, base, cache, trust)
    raise MergeError(
        f"{delta.name}, merged into {record.folder}", f"is not at {delta.path} any more",
        f"say where it is with --source {delta.name}=PATH",
    )  # fmt: skip


def _kept(record: MergeRecord, delta: DeltaRecord, base: Model) -> Delta:
    """A delta that lies in the folder itself."""
    facts = record.kept[delta.name]
    path = record.folder / facts["file"]
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file() or digest_of(file) != facts["sha256"]:
        raise MergeError(
            str(path), "is missing or was changed since it was kept", f"say with --source {delta.name}=PATH where it is"
        )
    if delta.kind != "model":
        return open_delta(path, delta.name, base)
    return VectorDelta(delta.name, path, base, (delta.kind, delta.digest, delta.nbytes))
