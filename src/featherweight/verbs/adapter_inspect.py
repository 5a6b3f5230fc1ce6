"""adapter inspect: the ranks of an adapter, where its energy is, its size; on held-out data its loss at each rank.

    import featherweight as fw
    fw.adapter_inspect("runs/support", data="held-out.jsonl").curve.aurac

Energy is the squared norm of the change of a weight. Without data nothing is said of quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.adapter_facts import AdapterFacts, read_facts
from featherweight.core.adapter_folder import Adapter, adapter_bytes, read_config
from featherweight.core.batch import Batch
from featherweight.core.errors import DataError, OutputError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.rank_allocation import Spectrum, spectra
from featherweight.core.whole import whole_file
from featherweight.measure.rank_curve import RankCurve, rank_curve
from featherweight.report.adapter_charts import loss_by_rank, ranks_heatmap
from featherweight.report.figures_page import Figure, write_page
from featherweight.verbs.adapter_source import NESTED, base_of, open_adapter


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
        modules: in the order of the file.
        parameters: of all factors.
        bytes: of the file of tensors.
        energy: squared norm of the whole change.
        curve: held-out loss at each rank; None without data.
    """

    folder: Path
    method: str
    facts: AdapterFacts | None
    modules: tuple[InspectedModule, ...]
    parameters: int
    bytes: int
    energy: float
    curve: RankCurve | None


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
        folder: a PEFT folder of LoRA or MatryoshkaLoRA, ours or not.
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
    adapter = open_adapter(source)
    curve = None
    if data is not None:
        base = base_of(adapter, model, cache)
        curve = rank_curve(_adapted(base, source, device), _batches(base, data, rows, length, device))
    found = spectra(adapter)
    total = sum(float(each.values.square().sum()) for each in found.values())
    modules = tuple(_module(adapter, name, each, total) for name, each in found.items())
    result = Inspected(
        source, str(read_config(source).get("peft_type")), read_facts(source), modules, adapter.parameters,
        adapter_bytes(adapter), total, curve,
    )  # fmt: skip
    if page is not None:
        with whole_file(Path(page)) as draft:
            write_page(draft, f"The adapter {source.name}", _sentences(result), _figures(result))
    return result


def _module(adapter: Adapter, name: str, found: Spectrum, total: float) -> InspectedModule:
    squares = found.values.square()
    own = float(squares.sum())
    ranks = [_terms(squares, share) if own else 0 for share in (0.95, 0.99)]
    factors = adapter.factors[name]
    return InspectedModule(name, factors.rank, factors.parameters, own / total if total else 0.0, *ranks)


def _terms(squares: torch.Tensor, share: float) -> int:
    """The fewest largest terms that hold a share of the sum."""
    sums = squares.cumsum(0)
    return int(torch.searchsorted(sums, share * sums[-1])) + 1


def _adapted(base: Model, folder: Path, device: str) -> Any:
    import peft

    if read_config(folder).get("peft_type") == NESTED:
        import featherweight.models.matryoshka_lora  # noqa: F401  (PEFT knows the method from here on)
    module = base.module().to(device)
    return peft.PeftModel.from_pretrained(module, str(folder)).eval()


def _batches(base: Model, data: str | Path, rows: int, length: int, device: str) -> list[Batch]:
    from featherweight.core.examples import encode
    from featherweight.core.packing import PackedRows
    from featherweight.core.samples import read_samples

    if rows < 1:
        raise DataError(f"--rows {rows}", "measures nothing", "give at least 1")
    packed = PackedRows(encode(read_samples(data), base.tokenizer, length).examples, length)
    return [packed.batch([row]).to(device) for row in range(min(rows, len(packed)))]


def _sentences(result: Inspected) -> list[str]:
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
    figures = [
        Figure(
            "Share of the adapter's energy, by block and module",
            ranks_heatmap(share, {name: f"{value:.2%}" for name, value in share.items()}, "share"),
        ),
        Figure(
            "Rank that holds 95 % of a module's energy",
            ranks_heatmap(needed, {each.module: f"{each.rank_95} of {each.rank}" for each in result.modules}, "rank"),
        ),
    ]
    if result.curve is not None:
        chart = loss_by_rank(result.curve.ranks, result.curve.losses, result.curve.base)
        figures.insert(0, Figure("Held-out loss at each rank", chart))
    return figures
