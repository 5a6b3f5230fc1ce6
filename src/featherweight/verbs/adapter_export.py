"""adapter export: an adapter at a rank as a plain PEFT LoRA folder, or as a GGUF file for llama.cpp.

    import featherweight as fw
    fw.adapter_export("runs/support", rank=8, format="gguf")

What is lost of the change is measured (`verbs.adapter_cut`): nothing where a MatryoshkaLoRA serves the rank, most of it
where a GPart adapter becomes LoRA. A GGUF file needs the base model: names and the order of rows are its, and what was
written is loaded with it in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from featherweight.core.adapter_facts import read_facts, write_facts
from featherweight.core.adapter_folder import WEIGHTS, read_adapter, write_adapter
from featherweight.core.errors import AdapterError, OutputError, nearest
from featherweight.core.progress import Progress
from featherweight.core.receipt import versions
from featherweight.core.whole import whole_file, whole_folder
from featherweight.export.gguf_adapter import AdapterReload, AdapterType, check_gguf_adapter, write_gguf_adapter
from featherweight.verbs.adapter_cut import Cut, cut_adapter
from featherweight.verbs.adapter_shrink import require_same
from featherweight.verbs.adapter_source import base_of, beside, highest_rank, weights_digest

FORMATS, TYPES = ("peft", "gguf"), ("F16", "F32")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: a folder or a .gguf file.
        format: "peft" or "gguf".
        ranks: by module.
        parameters: of all factors.
        bytes: of the file of tensors.
        reload: what llama.cpp was found to compute; None for a folder.
        lost: norm of what is missing of a module's change over the norm of that change; empty where all of it is there.
        lost_in_all: the same over all modules together; None where all of it is there.
    """

    path: Path
    format: str
    ranks: Mapping[str, int]
    parameters: int
    bytes: int
    reload: AdapterReload | None = None
    lost: Mapping[str, float] = field(default_factory=dict)
    lost_in_all: float | None = None

    @property
    def rank(self) -> int:
        """The highest of its modules."""
        return max(self.ranks.values())


def adapter_export(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    format: str = "peft",
    model: str | None = None,
    kind: str = "F16",
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Writes an adapter for other tools.

    Args:
        folder: a PEFT folder of LoRA, MatryoshkaLoRA or GPart, ours or not.
        out: folder or file to write; None = beside the adapter, named after the rank.
        rank: 1 to the adapter's own; None = all of it. A GPart adapter has none: up to the smaller side of a weight.
        energy: instead of a rank, the share of each module's squared norm to keep; ranks then differ by module.
        format: "peft" or "gguf".
        model: its base, for GGUF and for a GPart adapter; None = the one that the folder names.
        kind: number type of a GGUF file's factors, "F16" or "F32".
        cache: where converted models are kept.
        progress: shows how far it is.

    Raises:
        AdapterError: the adapter cannot be read, has no such rank, belongs to another base, or does not fit the format.
        OutputError: the output exists, or does not compute what it should.
    """
    source = Path(folder)
    for option, value, known in (("--format", format, FORMATS), ("--type", kind, TYPES)):
        if value not in known:
            hint = nearest(value, known) or f"use {' or '.join(known)}"
            raise AdapterError(f"{option} {value!r}", "is none that an adapter is exported in", hint)
    given = Path(out) if out is not None else _beside(source, rank, energy, format)
    _require_free(given)
    cut = cut_adapter(source, rank, energy, model, cache, progress)
    target = given or _beside(source, highest_rank(cut.adapter), None, format)
    assert target is not None
    _require_free(target)
    if format == "gguf":
        return _gguf(cut, target, model, "F32" if kind == "F32" else "F16", cache)
    return _folder(cut, target, {"rank": rank, **({} if energy is None else {"energy": energy})})


def _beside(source: Path, rank: int | None, energy: float | None, format: str) -> Path | None:
    """Where the result goes; None where that depends on the adapter's own rank."""
    if rank is None and energy is None:
        return None
    asked = f"rank-{rank}" if rank is not None else f"energy-{energy:g}"
    return beside(source, f"-{asked}{'.gguf' if format == 'gguf' else ''}")


def _require_free(target: Path | None) -> None:
    if target is not None and target.exists():
        raise OutputError(str(target), "exists already", "choose another or remove it")


def _folder(cut: Cut, target: Path, asked: Mapping[str, float | None]) -> Exported:
    adapter = cut.adapter
    facts = read_facts(adapter.folder)
    with whole_folder(target) as draft:
        write_adapter(adapter, draft)
        require_same(read_adapter(draft), adapter)
        if facts is not None:
            receipt = {
                "step": "adapter export", **asked, "from": facts.method, "before": weights_digest(adapter.folder),
                "after": weights_digest(draft), "lost": cut.lost_in_all, "versions": versions(),
            }  # fmt: skip
            write_facts(draft, replace(facts.with_receipt(receipt), method="lora"))
    return _exported(cut, target, "peft", (target / WEIGHTS).stat().st_size, None)


def _gguf(cut: Cut, target: Path, name: str | None, kind: AdapterType, cache: Path | None) -> Exported:
    base = cut.base or base_of(cut.adapter, name, cache)
    with whole_file(target) as draft:
        write_gguf_adapter(cut.adapter, base, draft, kind)
        reload = check_gguf_adapter(cut.adapter, base, draft)
    return _exported(cut, target, "gguf", target.stat().st_size, reload)


def _exported(cut: Cut, path: Path, format: str, nbytes: int, reload: AdapterReload | None) -> Exported:
    ranks = {module: each.rank for module, each in cut.adapter.factors.items()}
    return Exported(path, format, ranks, cut.adapter.parameters, nbytes, reload, cut.lost, cut.lost_in_all)
