"""adapter shrink: a trained LoRA adapter at the ranks that an energy or a budget allows, as a folder for stock PEFT.

    import featherweight as fw
    fw.adapter_shrink("runs/support", energy=0.95)

No data and no base model are needed (`core.rank_allocation`). What was fully trained beside the factors
(modules_to_save) is carried over and counts towards the size. The control is uniform truncation by singular values at
no fewer parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherweight.core.adapter_facts import read_facts, write_facts
from featherweight.core.adapter_folder import Adapter, adapter_bytes, read_adapter, write_adapter
from featherweight.core.budget import format_bytes, parse_bytes
from featherweight.core.errors import AdapterError, OutputError
from featherweight.core.rank_allocation import (
    Spectrum,
    bytes_of,
    energy_kept,
    parameters_of,
    ranks_for_budget,
    ranks_for_energy,
    spectra,
    uniform_ranks,
    with_ranks,
)
from featherweight.core.receipt import versions
from featherweight.core.whole import whole_folder
from featherweight.report.adapter_charts import ranks_heatmap
from featherweight.report.figures_page import Figure, write_page
from featherweight.verbs.adapter_source import beside, open_adapter, weights_digest

PAGE, TABLE = "ranks.html", "ranks.json"


@dataclass(frozen=True)
class ModuleRank:
    """One module before and after.

    Attributes:
        module: its name in the base model.
        before, after: rank; 0 = not adapted any more.
        share: of the whole adapter's squared norm.
        kept: share of its own squared norm that is kept.
        parameters: numbers in its factors afterwards.
    """

    module: str
    before: int
    after: int
    share: float
    kept: float
    parameters: int


@dataclass(frozen=True)
class Shrunk:
    """A smaller adapter.

    Attributes:
        folder: where it is.
        rule: what was asked for, in words.
        modules: in the order of the file.
        parameters: of all factors, before and after.
        bytes: of the file of tensors, before and after.
        energy: share of the squared norm that is kept.
        control: uniform rank, its parameters and the energy that it keeps.
    """

    folder: Path
    rule: str
    modules: tuple[ModuleRank, ...]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    energy: float
    control: Mapping[str, float]

    @property
    def page(self) -> Path:
        return self.folder / PAGE


def adapter_shrink(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    energy: float | None = None,
    parameters: int | None = None,
    size: str | int | None = None,
    by_cost: bool = False,
) -> Shrunk:
    """Keeps the largest singular values of a LoRA adapter, over all its modules together.

    Args:
        folder: a PEFT folder, ours or not.
        out: folder of the result; None = the same name with -shrunk.
        energy: share of the squared norm of the change to keep, in (0, 1].
        parameters: most numbers in all factors.
        size: most bytes of the file of tensors: "1MB".
        by_cost: rank by energy per parameter instead of energy.

    Raises:
        AdapterError: not exactly one of the three is given, the adapter does not do, or nothing would be left.
        OutputError: the folder exists.
    """
    source = Path(folder)
    target = Path(out) if out is not None else beside(source, "-shrunk")
    if sum(each is not None for each in (energy, parameters, size)) != 1:
        raise AdapterError(
            f"shrinking {source}", "needs one of energy, parameters and size", "give exactly one, such as --energy 0.95"
        )
    if target.exists():
        raise OutputError(str(target), "exists already", "choose another folder or remove it")
    limit = parse_bytes(size, "size") if size is not None else None
    adapter = open_adapter(source)
    found = spectra(adapter)
    _require_change(adapter, found)
    if energy is not None:
        rule, ranks = f"energy {energy:g}", ranks_for_energy(found, energy, by_cost)
    elif limit is not None:
        rule = f"at most {format_bytes(limit)}"
        ranks = ranks_for_budget(found, lambda each: bytes_of(adapter, each) <= limit, by_cost)
    else:
        rule = f"at most {parameters:,} parameters"
        ranks = ranks_for_budget(found, lambda each: parameters_of(found, each) <= (parameters or 0), by_cost)
    _require_some(adapter, found, ranks, rule)
    rule += ", by energy per parameter" if by_cost else ""
    return _written(adapter, with_ranks(adapter, found, ranks), found, ranks, rule, target)


def _require_change(adapter: Adapter, found: Mapping[str, Spectrum]) -> None:
    if not any(bool(each.values.any()) for each in found.values()):
        raise AdapterError(
            str(adapter.folder), "changes nothing: its factors multiply to zero",
            "train it, or use the base model without it",
        )  # fmt: skip


def _require_some(adapter: Adapter, found: Mapping[str, Spectrum], ranks: Mapping[str, int], rule: str) -> None:
    if any(ranks.values()):
        return
    least = ranks_for_budget(found, lambda each: sum(each.values()) <= 1)
    raise AdapterError(
        f"{adapter.folder}, {rule}", "leaves nothing of the adapter",
        f"allow at least {parameters_of(found, least):,} parameters or {bytes_of(adapter, least):,} bytes",
    )  # fmt: skip


def _written(
    adapter: Adapter, smaller: Adapter, found: Mapping[str, Spectrum], ranks: Mapping[str, int], rule: str, target: Path
) -> Shrunk:
    uniform = uniform_ranks(found, smaller.parameters)
    result = Shrunk(
        target, rule, _modules(found, ranks), (adapter.parameters, smaller.parameters),
        (adapter_bytes(adapter), adapter_bytes(smaller)), energy_kept(found, ranks),
        {
            "rank": max(uniform.values()), "parameters": parameters_of(found, uniform),
            "energy": energy_kept(found, uniform),
        },
    )  # fmt: skip
    with whole_folder(target) as draft:
        write_adapter(smaller, draft)
        require_same(read_adapter(draft), smaller)
        _write_facts(adapter, result, draft)
        (draft / TABLE).write_text(json.dumps(_facts(result), indent=1) + "\n", encoding="utf-8")
        write_page(draft / PAGE, f"Ranks of {target.name}", _sentences(result), _figures(result))
    return result


def _modules(found: Mapping[str, Spectrum], ranks: Mapping[str, int]) -> tuple[ModuleRank, ...]:
    total = sum(float(each.values.square().sum()) for each in found.values())
    rows = []
    for module, each in found.items():
        squares = each.values.square()
        own, kept = float(squares.sum()), float(squares[: ranks[module]].sum())
        share = kept / own if own else 1.0
        rows.append(
            ModuleRank(module, len(squares), ranks[module], own / total, share, ranks[module] * each.cost)
        )  # fmt: skip
    return tuple(rows)


def require_same(found: Adapter, written: Adapter) -> None:
    """Refuses a written adapter that reads back as something else.

    Raises:
        OutputError: a module, a factor or a scale differs.
    """
    same = found.factors.keys() == written.factors.keys() and all(
        found.factors[module].a.equal(each.a)
        and found.factors[module].b.equal(each.b)
        and abs(found.factors[module].scale - each.scale) <= 1e-12 * abs(each.scale)
        for module, each in written.factors.items()
    )
    if not same:
        raise OutputError(str(found.folder), "reads back as another adapter", "report this: nothing was kept")


def _write_facts(adapter: Adapter, result: Shrunk, draft: Path) -> None:
    """The receipt of this step, where the folder knows its base."""
    facts = read_facts(adapter.folder)
    if facts is not None:
        receipt = {
            "step": "adapter shrink", "before": weights_digest(adapter.folder), "after": weights_digest(draft),
            **{key: value for key, value in _facts(result).items() if key != "modules"}, "versions": versions(),
        }  # fmt: skip
        write_facts(draft, facts.with_receipt(receipt))


def _facts(result: Shrunk) -> dict[str, Any]:
    return {
        "rule": result.rule, "parameters": list(result.parameters), "bytes": list(result.bytes),
        "energy": result.energy, "control": dict(result.control),
        "modules": [asdict(each) for each in result.modules],
    }  # fmt: skip


def _sentences(result: Shrunk) -> list[str]:
    before, after = result.parameters
    control = result.control
    return [
        f"Rule: {result.rule}. {after:,} of {before:,} parameters ({after / before:.1%}), "
        f"{format_bytes(result.bytes[1])} of {format_bytes(result.bytes[0])}, {result.energy:.2%} of the energy.",
        f"Control: every module cut to rank {control['rank']:g} by its own singular values keeps "
        f"{control['energy']:.2%} of the energy with {control['parameters']:,} parameters.",
        "Energy is the squared norm of the change of the weights; it is not the loss.",
    ]


def _figures(result: Shrunk) -> list[Figure]:
    after = {each.module: float(each.after) for each in result.modules}
    before = {each.module: each.before for each in result.modules}
    notes = {module: f"rank {before[module]} to {rank:g}" for module, rank in after.items()}
    kept = {each.module: each.kept for each in result.modules}
    return [
        Figure("Rank that is left, by block and module", ranks_heatmap(after, notes, "rank")),
        Figure(
            "Share of each module's own energy that is left",
            ranks_heatmap(kept, {module: f"{share:.1%}" for module, share in kept.items()}, "share"),
        ),
    ]
