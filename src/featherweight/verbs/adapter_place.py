"""adapter place: which linear's adapter would learn most at first, from a few samples, before any training.

    import featherweight as fw
    fw.adapter_place("smollm2-135m", "chats.jsonl").placement.best

`featherweight adapt --place auto` probes in the same way and then trains one adapter, on the best module
(`measure.placement` says what the score is and what it is not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError, OutputError, RecipeError
from featherweight.core.examples import encode
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.packing import PackedRows
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.samples import Sample, read_samples
from featherweight.core.whole import whole_file
from featherweight.measure.placement import Placement, Score, Start, placement
from featherweight.report.adapter_charts import placement_heatmap
from featherweight.report.figures_page import Figure, write_page
from featherweight.train.adapter_technique import AdapterTechnique
from featherweight.verbs.prepare import check_device, open_parent

TITLE = "Share of the energy of the adapter's first gradient"
SAMPLES = 32
FASTER = 10  # a single module was seen to need ten to twenty times the learning rate of all linears together
SCORES, STARTS = ("expected", "projected", "fisher"), ("gaussian", "kaiming")


@dataclass(frozen=True)
class Placed:
    """The scores of a model's linears on some samples.

    Attributes:
        model: as the user named it.
        placement: the scores.
        page: where the picture is; None = nowhere.
    """

    model: str
    placement: Placement
    page: Path | None


def adapter_place(
    model: str | Path,
    data: str | Path,
    *,
    score: str = "expected",
    start: str = "gaussian",
    rank: int = 16,
    alpha: float | None = None,
    samples: int = SAMPLES,
    length: int = 512,
    page: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Placed:
    """Scores every linear of a model's blocks; trains nothing.

    Args:
        model: the base.
        data: a .jsonl file of chats, prompts with completions or texts.
        score: "expected", "projected" or "fisher".
        start: how the adapter's A would be drawn, "gaussian" or "kaiming".
        rank: of the adapter.
        alpha: of the adapter; None = twice the rank.
        samples: how many are read.
        length: tokens of a sample.
        page: an HTML file for the picture.
        seed: decides which samples, and A.
        device: "cpu" or "cuda".
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.

    Raises:
        FeatherweightError: the model, the data or a setting does not do.
    """
    for option, value, known in (("--score", score, SCORES), ("--start", start, STARTS)):
        if value not in known:
            raise RecipeError(f"{option} {value!r}", "is unknown", f"use one of {', '.join(known)}")
    if rank < 1:
        raise RecipeError(f"rank {rank}", "is none", "give at least 1")
    if page is not None and Path(page).exists():
        raise OutputError(str(page), "exists already", "choose another file or remove it")
    check_device(device)
    given = read_samples(data)
    base = open_parent(model, cache, trust)
    run = Run(seed=seed, device=device, progress=progress or Progress())
    found = plan_placement(base, given, run, samples, length, score, start, rank, alpha)  # type: ignore[arg-type]
    if page is not None:
        with whole_file(Path(page)) as draft:
            write_page(
                draft, f"Where an adapter of {model} would learn most at first", sentences(found), figures(found)
            )
    return Placed(str(model), found, None if page is None else Path(page))


def plan_placement(
    base: Model,
    given: Sequence[Sample],
    run: Run,
    samples: int = SAMPLES,
    length: int = 512,
    score: Score = "expected",
    start: Start = "gaussian",
    rank: int = 16,
    alpha: float | None = None,
) -> Placement:
    """The scores of the linears of a model's blocks on some of the samples, each a row of its own.

    Raises:
        DataError: no samples are asked for, or nothing of them can be trained on.
    """
    if samples < 1:
        raise DataError(f"--samples {samples}", "measures nothing", "give at least 1")
    order = torch.randperm(len(given), generator=run.generator("placement/samples")).tolist()
    chosen = [given[index] for index in order[:samples]]
    rows = PackedRows(encode(chosen, base.tokenizer, length).examples, length, share=False)
    count = min(len(rows), samples)  # a long text gives several rows
    batch = rows.batch(range(count)).to(run.device)
    names = [name.removesuffix(".weight") for name in base.architecture.linears()]
    return placement(
        base.module().to(run.device), batch, score, start, rank, 2 * rank if alpha is None else alpha, names,
        generator=run.generator("placement/start"),
    )  # fmt: skip


def placed(
    technique: AdapterTechnique, place: str | None, base: Model, given: Sequence[Sample], run: Run
) -> tuple[AdapterTechnique, dict[str, Any] | None]:
    """A technique whose one target is the module that the probe puts first, and what the probe found.

    Args:
        technique: what is to be trained.
        place: "auto", or None: then the technique stays as it is.
        base: the model.
        given: samples to train on.
        run: seed, device, progress.

    Raises:
        RecipeError: another word than "auto", or targets beside it.
    """
    if place is None:
        return technique, None
    if place != "auto":
        raise RecipeError(f"place {place!r}", "is unknown", "use auto, or name modules with targets")
    if technique.targets:
        raise RecipeError("place 'auto'", "is given together with targets", "leave one of them out")
    rank, alpha = getattr(technique, "rank", 16), getattr(technique, "alpha", None)
    found = plan_placement(base, given, run, length=technique.length, rank=rank, alpha=alpha)
    rate = FASTER * type(technique).model_fields["learning_rate"].default
    run.progress.say(
        f"one adapter, on {found.best}, with {found.share(found.best):.1%} of the first gradient's energy; a single "
        f"module usually needs a larger learning rate: try {rate:g}"
    )
    return technique.model_copy(update={"targets": (found.best,)}), facts(found)


def facts(found: Placement) -> dict[str, Any]:
    """The placement for a receipt."""
    return {
        "score": found.score, "start": found.start, "rank": found.rank, "alpha": found.alpha,
        "samples": found.samples, "predictions": found.predictions, "best": found.best,
        "shares": {module: found.share(module) for module in found.ranked},
    }  # fmt: skip


def sentences(found: Placement) -> list[str]:
    """What was measured and what follows, for a page."""
    return [
        f"Score: {found.score}, A drawn {found.start}, {found.samples} samples with {found.predictions:,} predictions "
        f"that count. Highest: {found.best} with {found.share(found.best):.1%} of the sum over "
        f"{len(found.scores)} linears.",
        "The score is the energy of the adapter's first gradient. It says where the first steps go; it is no promise "
        "of the final quality. A single module usually needs a larger learning rate: try ten times the usual one.",
    ]


def figures(found: Placement) -> list[Figure]:
    """The picture of a placement."""
    return [Figure(TITLE, placement_heatmap(facts(found)["shares"]))]
