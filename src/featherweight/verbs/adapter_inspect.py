"""adapter inspect: the ranks of an adapter, where its energy is, its size; on held-out data its loss at each rank.

A GPart adapter has no ranks: its vector and groups are shown (`verbs.adapter_vector`).

    import featherweight as fw
    fw.adapter_inspect("runs/support", data="held-out.jsonl").curve.aurac

Energy is the squared norm of the change of a weight. Without data nothing is said of quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featherweight.core.adapter_facts import AdapterFacts, read_facts
from featherweight.core.adapter_folder import Adapter, adapter_bytes
from featherweight.core.batch import Batch
from featherweight.core.errors import AdapterError, DataError, OutputError
from featherweight.core.model import Model
from featherweight.core.rank_allocation import Spectrum, spectra, terms_for
from featherweight.core.whole import whole_file
from featherweight.measure.rank_curve import RankCurve, rank_curve
from featherweight.report.adapter_charts import loss_by_rank, ranks_heatmap
from featherweight.report.figures_page import Figure, write_page
from featherweight.verbs.adapter_source import GPART, base_of, method_of, open_adapter, wrapped
from featherweight.verbs.adapter_vector import Vector, inspect_vector


@dataclass(frozen=True)
class InspectedModule:
    """One module.

    Attributes:
        module: its name in the base model.
        rank: of its factors.
        parameters: numbers in them.
        share: of the whole adapter's squared norm.
        rank_95, rank_99: terms that hold that share of its own squared norm.
    """

    module: str
    rank: int
    parameters: int
    share: float
    rank_95: int
    rank_99: int


@dataclass(frozen=True)
class Inspected:
    """An adapter, looked at.

    Attributes:
        folder: where it is.
        method: PEFT's name of it.
        facts: what the folder says of its base; None for one from elsewhere.
        modules: in the order of the file; none of a GPart adapter.
        parameters: of all factors, or of the vector.
        bytes: of the file of tensors.
        energy: squared norm of the whole change; None where the base would be needed for it.
        curve: held-out loss at each rank; None without data.
        vector: of a GPart adapter.
    """

    folder: Path
    method: str
    facts: AdapterFacts | None
    modules: tuple[InspectedModule, ...]
    parameters: int
    bytes: int
    energy: float | None
    curve: RankCurve | None
    vector: Vector | None = None


def adapter_inspect(
    folder: str | Path,
    *,
    data: str | Path | None = None,
    model: str | None = None,
    rows: int = 32,
    length: int = 512,
    page: str | Path | None = None,
    device: str = "cpu",
    cache: Path | None = None,
) -> Inspected:
    """Looks at an adapter, and changes nothing.

    Args:
        folder: a PEFT folder of LoRA, MatryoshkaLoRA or GPart, ours or not.
        data: held-out chats or texts (.jsonl, .txt); None = no curve.
        model: its base; None = the one that the folder names.
        rows: most rows of data that are measured.
        length: tokens of a row.
        page: an HTML file for the pictures.
        device: where the model runs.
        cache: where converted models are kept.

    Raises:
        AdapterError: the adapter cannot be read, or belongs to another base.
        DataError: the data does not do.
        OutputError: the page exists.
    """
    source = Path(folder)
    if page is not None and Path(page).exists():
        raise OutputError(str(page), "exists already", "choose another file or remove it")
    if method_of(source) == GPART:
        result = _vector(source, data)
    else:
        result = _factors(source, data, model, rows, length, device, cache)
    if page is not None:
        with whole_file(Path(page)) as draft:
            write_page(draft, f"The adapter {source.name}", _sentences(result), _figures(result))
    return result


def _vector(source: Path, data: str | Path | None) -> Inspected:
    if data is not None:
        raise AdapterError(
            str(source), "is a GPart adapter, which has no ranks to measure a loss at",
            "leave the data out, or write it as LoRA first: adapter export --rank 8",
        )  # fmt: skip
    found = inspect_vector(source)
    return Inspected(source, GPART, read_facts(source), (), found.dimension, found.bytes, found.energy, None, found)


def _factors(
    source: Path, data: str | Path | None, model: str | None, rows: int, length: int, device: str, cache: Path | None
) -> Inspected:
    adapter = open_adapter(source)
    curve = None
    if data is not None:
        base = base_of(adapter, model, cache)
        curve = rank_curve(wrapped(base.module().to(device), source), _batches(base, data, rows, length, device))
    found = spectra(adapter)
    total = sum(float(each.values.square().sum()) for each in found.values())
    modules = tuple(_module(adapter, name, each, total) for name, each in found.items())
    return Inspected(
        source, method_of(source), read_facts(source), modules, adapter.parameters,
        adapter_bytes(adapter), total, curve,
    )  # fmt: skip


def _module(adapter: Adapter, name: str, found: Spectrum, total: float) -> InspectedModule:
    squares = found.values.square()
    own = float(squares.sum())
    ranks = [terms_for(squares, share) if own else 0 for share in (0.95, 0.99)]
    factors = adapter.factors[name]
    return InspectedModule(name, factors.rank, factors.parameters, own / total if total else 0.0, *ranks)


def _batches(base: Model, data: str | Path, rows: int, length: int, device: str) -> list[Batch]:
    from featherweight.core.examples import encode
    from featherweight.core.packing import PackedRows
    from featherweight.core.samples import read_samples

    if rows < 1:
        raise DataError(f"--rows {rows}", "measures nothing", "give at least 1")
    packed = PackedRows(encode(read_samples(data), base.tokenizer, length).examples, length)
    return [packed.batch([row]).to(device) for row in range(min(rows, len(packed)))]


def _sentences(result: Inspected) -> list[str]:
    if result.vector is not None:
        return [
            f"{result.method}, {len(result.vector.weights)} modules, {sum(result.vector.weights.values()):,} weights "
            f"that {result.parameters:,} numbers change.",
            "A seed decides which weights share a number, so a module's energy is about its share of the weights.",
        ]
    said = [f"{result.method}, {len(result.modules)} modules, {result.parameters:,} parameters."]
    if result.curve is not None:
        area = result.curve.aurac
        said.append(
            f"Area under the curve of the negated loss over ranks (AURAC): {area.linear:.4f} over rank, "
            f"{area.log:.4f} over its logarithm, mean {area.mean:.4f}."
        )
    return said


def _figures(result: Inspected) -> list[Figure]:
    share = {each.module: each.share for each in result.modules}
    needed = {each.module: float(each.rank_95) for each in result.modules}
    figures = []
    if result.curve is not None:
        chart = loss_by_rank(result.curve.ranks, result.curve.losses, result.curve.base)
        figures.append(Figure("Held-out loss at each rank", chart))
    if energies := dict(result.vector.shares) if result.vector else share:
        notes = {name: f"{value:.2%}" for name, value in energies.items()}
        chart = ranks_heatmap(energies, notes, "share")
        figures.append(Figure("Share of the adapter's energy, by block and module", chart))
    if needed:
        notes = {each.module: f"{each.rank_95} of {each.rank}" for each in result.modules}
        figures.append(Figure("Rank that holds 95 % of a module's energy", ranks_heatmap(needed, notes, "rank")))
    return figures
