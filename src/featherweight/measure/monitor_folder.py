"""A monitor on disk: tensors in safetensors, the rest in JSON, whole or not at all; nothing in it can run.

What is read is checked: the tensors' digest, the shapes, that numbers are finite, and the models it was made for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from featherweight.core.checkpoint import file_entries
from featherweight.core.errors import CheckpointError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.user_file import digest_of, read_json_object
from featherweight.core.whole import whole_folder
from featherweight.measure.clusters import Clusters
from featherweight.measure.conceptogram import Peephole
from featherweight.measure.conformity import ProtoClasses
from featherweight.measure.corevectors import Basis
from featherweight.measure.layers import LayerSettings, Peepholes
from featherweight.measure.monitor import Monitor
from featherweight.measure.probe_rows import Positions
from featherweight.measure.token_classes import TokenClasses

TENSORS, FACTS = "monitor.safetensors", "monitor.json"
_VERSION = 1
_MEND = "make the monitor again"


def save_monitor(monitor: Monitor, folder: Path) -> None:
    """Writes a monitor into a new folder.

    Raises:
        OutputError: the folder exists or cannot be written.
    """
    from safetensors.torch import save_file

    holes = monitor.peepholes
    with whole_folder(folder) as draft:
        save_file({name: each.contiguous() for name, each in _tensors(monitor).items()}, draft / TENSORS)
        facts = {
            "version": _VERSION,
            "models": list(monitor.models),
            "positions": monitor.positions,
            "labels": list(holes.names),
            "modules": list(holes.holes),
            "classes": None if monitor.classes is None else list(monitor.classes.names),
            "settings": holes.settings.to_dict(),
            "proto_samples": list(holes.protos.samples),
            "confident": list(holes.protos.confident),
            "macs": monitor.macs,
            "tensors": digest_of(draft / TENSORS),
        }
        (draft / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _tensors(monitor: Monitor) -> dict[str, torch.Tensor]:
    holes = monitor.peepholes
    found = {"protos": holes.protos.rows}
    if monitor.classes is not None:
        found["classes"] = monitor.classes.table
    for name, hole in holes.holes.items():
        basis, clusters = holes.bases[name], hole.clusters
        parts = {
            "right": basis.right, "offset": basis.offset, "singular": basis.singular, "centres": clusters.centres,
            "variances": clusters.variances, "weights": clusters.weights, "scale": hole.scale,
            "posterior": hole.posterior, "base": hole.base,
        }  # fmt: skip
        found |= {f"{name}/{part}": each for part, each in parts.items() if each is not None}
    return found


def load_monitor(folder: Path, model: Model) -> Monitor:
    """Reads a monitor for a model.

    Raises:
        CheckpointError: no monitor, a damaged one, or one of other models.
    """
    for name in (FACTS, TENSORS):
        if not (folder / name).is_file():
            raise CheckpointError(str(folder), f"is no monitor: it has no {name}", "give the folder of a monitor")
    facts = read_json_object(folder / FACTS, CheckpointError, _MEND)
    if facts.get("version") != _VERSION:
        raise CheckpointError(str(folder), f"has the version {facts.get('version')}, known is {_VERSION}", _MEND)
    if digest_of(folder / TENSORS) != facts.get("tensors"):
        raise CheckpointError(str(folder / TENSORS), "is not the file that was written with its monitor.json", _MEND)
    try:
        monitor = _monitor(facts, {name: entry.load() for name, entry in file_entries(folder / TENSORS).items()})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(str(folder), f"lacks or misnames something ({error})", _MEND) from None
    monitor.require(model)
    return monitor


def _monitor(facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Monitor:
    names = tuple(facts["labels"])
    bases = {name: _basis(name, tensors) for name in facts["modules"]}
    holes = {name: _peephole(name, tensors, bases[name], len(names)) for name in facts["modules"]}
    rows = tensors["protos"]
    _require(tuple(rows.shape) == (len(names), len(holes), len(names)), "protos")
    protos = ProtoClasses(rows, tuple(facts["proto_samples"]), tuple(facts["confident"]))
    settings = LayerSettings(**{**facts["settings"], "modules": tuple(facts["settings"]["modules"])})
    _require(facts["positions"] in get_args(Positions), "positions")
    classes = None
    if facts["classes"] is not None:
        table = tensors["classes"]
        _require(table.dim() == 1 and int(table.min()) >= 0 and int(table.max()) < len(names), "classes")
        classes = TokenClasses(tuple(facts["classes"]), table)
    return Monitor(
        Peepholes(names, bases, holes, protos, settings), tuple(facts["models"]), facts["positions"], classes
    )


def _basis(name: str, tensors: Mapping[str, torch.Tensor]) -> Basis:
    right, singular = tensors[f"{name}/right"], tensors[f"{name}/singular"]
    return Basis(right, tensors.get(f"{name}/offset"), singular, right.new_zeros(0, len(singular)))


def _peephole(name: str, tensors: Mapping[str, torch.Tensor], basis: Basis, labels: int) -> Peephole:
    parts = {part: tensors[f"{name}/{part}"] for part in ("centres", "scale", "posterior", "base")}
    clusters = Clusters(parts["centres"], tensors.get(f"{name}/variances"), tensors.get(f"{name}/weights"))
    _require(tuple(parts["posterior"].shape) == (len(clusters), labels), f"{name}/posterior")
    _require(tuple(basis.right.shape[:1]) == tuple(parts["scale"].shape) == (parts["centres"].shape[1],), name)
    for part in (*parts.values(), basis.right):
        _require(bool(torch.isfinite(part).all()), name)
    return Peephole(clusters, parts["scale"], parts["posterior"], parts["base"])


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} does not fit the rest")
