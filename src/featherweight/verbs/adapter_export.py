"""adapter export: an adapter at a rank as a plain PEFT LoRA folder, or as a GGUF file for llama.cpp.

    import featherweight as fw
    fw.adapter_export("runs/support", rank=8, format="gguf")

A MatryoshkaLoRA gives what it serves at that rank, any other LoRA its best approximation, module by module. A GGUF file
needs the base model: names and the order of rows are its, and what was written is loaded with it in llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from featherweight.core.adapter_facts import read_facts, write_facts
from featherweight.core.adapter_folder import WEIGHTS, Adapter, read_adapter, write_adapter
from featherweight.core.errors import AdapterError, OutputError, nearest
from featherweight.core.receipt import versions
from featherweight.core.whole import whole_file, whole_folder
from featherweight.export.gguf_adapter import AdapterReload, AdapterType, check_gguf_adapter, write_gguf_adapter
from featherweight.verbs.adapter_shrink import require_same
from featherweight.verbs.adapter_source import base_of, highest_rank, open_adapter, weights_digest

FORMATS, TYPES = ("peft", "gguf"), ("F16", "F32")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: a folder or a .gguf file.
        format: "peft" or "gguf".
        rank: the highest of its modules.
        modules: how many are adapted.
        parameters: of all factors.
        bytes: of the file of tensors.
        reload: what llama.cpp was found to compute; None for a folder.
    """

    path: Path
    format: str
    rank: int
    modules: int
    parameters: int
    bytes: int
    reload: AdapterReload | None = None


def adapter_export(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    rank: int | None = None,
    format: str = "peft",
    model: str | None = None,
    kind: str = "F16",
    cache: Path | None = None,
) -> Exported:
    """Writes an adapter for other tools.

    Args:
        folder: a PEFT folder of LoRA or MatryoshkaLoRA, ours or not.
        out: folder or file to write; None = beside the adapter, named after the rank.
        rank: 1 to the adapter's own; None = all of it.
        format: "peft" or "gguf".
        model: its base, for GGUF; None = the one that the folder names.
        kind: number type of a GGUF file's factors, "F16" or "F32".
        cache: where converted models are kept.

    Raises:
        AdapterError: the adapter cannot be read, has no such rank, belongs to another base, or does not fit the format.
        OutputError: the output exists, or does not compute what it should.
    """
    source = Path(folder)
    for option, value, known in (("--format", format, FORMATS), ("--type", kind, TYPES)):
        if value not in known:
            hint = nearest(value, known) or f"use {' or '.join(known)}"
            raise AdapterError(f"{option} {value!r}", "is none that an adapter is exported in", hint)
    adapter = open_adapter(source, rank)
    target = Path(out) if out is not None else _beside(source, highest_rank(adapter), format)
    if target.exists():
        raise OutputError(str(target), "exists already", "choose another or remove it")
    if format == "gguf":
        return _gguf(adapter, target, model, "F32" if kind == "F32" else "F16", cache)
    return _folder(adapter, target, rank)


def _beside(source: Path, rank: int, format: str) -> Path:
    return source.with_name(f"{source.name}-rank-{rank}{'.gguf' if format == 'gguf' else ''}")


def _folder(adapter: Adapter, target: Path, rank: int | None) -> Exported:
    facts = read_facts(adapter.folder)
    with whole_folder(target) as draft:
        write_adapter(adapter, draft)
        require_same(read_adapter(draft), adapter)
        if facts is not None:
            receipt = {
                "step": "adapter export", "rank": rank, "from": facts.method, "before": weights_digest(adapter.folder),
                "after": weights_digest(draft), "versions": versions(),
            }  # fmt: skip
            write_facts(draft, replace(facts.with_receipt(receipt), method="lora"))
    return _exported(adapter, target, "peft", (target / WEIGHTS).stat().st_size, None)


def _gguf(adapter: Adapter, target: Path, name: str | None, kind: AdapterType, cache: Path | None) -> Exported:
    base = base_of(adapter, name, cache)
    with whole_file(target) as draft:
        write_gguf_adapter(adapter, base, draft, kind)
        reload = check_gguf_adapter(adapter, base, draft)
    return _exported(adapter, target, "gguf", target.stat().st_size, reload)


def _exported(adapter: Adapter, path: Path, format: str, nbytes: int, reload: AdapterReload | None) -> Exported:
    rank, modules = highest_rank(adapter), len(adapter.factors)
    return Exported(path, format, rank, modules, adapter.parameters, nbytes, reload)
