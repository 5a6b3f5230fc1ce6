"""compare_optimizers: a bake-off with equal tuning, its verdict, and what to use within a memory limit.

    import featherweight as fw
    fw.compare_optimizers(page="optimizers.html")                      # a small Llama of characters, and pictures
    fw.compare_optimizers("smollm2-135m", "notes.txt", memory="600MB", steps=60, seeds=2)

AdamW always takes part. A model of yours is trained as a whole, in float32, `optimizers x rates x seeds` times, and
left as it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featherweight.core.budget import parse_bytes
from featherweight.core.data import default_documents, read_documents, split_documents, tokenize
from featherweight.core.errors import OutputError, RecipeError
from featherweight.core.progress import Progress
from featherweight.core.receipt import versions
from featherweight.core.source import open_model
from featherweight.core.whole import whole_file
from featherweight.plan.optimizer_choice import Choice, Score, Verdict, check_fits, choose_optimizer, scores, verdict
from featherweight.report.figures_page import write_page
from featherweight.report.optimizer_charts import figures
from featherweight.train.bake_off import Protocol, Trial, Workload, bake_off
from featherweight.train.optimizer_state import StateBytes, state_bytes
from featherweight.train.optimizers import BASELINE, embeddings_of, find_optimizer
from featherweight.train.workloads import characters, of_model

DEFAULTS = (BASELINE, "muon", "adafactor", "sgd-momentum")


@dataclass(frozen=True)
class Comparison:
    """What a bake-off came to.

    Attributes:
        scores: best first.
        states: predicted bytes of state by optimizer, the embedding's apart.
        choice: what to use within the memory limit; None where none was given.
    """

    workload: str
    protocol: Protocol
    trials: tuple[Trial, ...]
    scores: tuple[Score, ...]
    verdict: Verdict
    states: dict[str, StateBytes]
    choice: Choice | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a loss that is no number is null."""
        record = {**asdict(self), "versions": versions()}
        plain: dict[str, Any] = json.loads(json.dumps(record), parse_constant=lambda _: None)
        return plain


def compare_optimizers(
    model: Any = None,
    data: str | Path | None = None,
    *,
    names: Sequence[str] = DEFAULTS,
    protocol: Protocol | None = None,
    memory: str | int | None = None,
    length: int = 48,
    batch: int = 8,
    out: str | Path | None = None,
    page: str | Path | None = None,
    trust: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Comparison:
    """Trains the same thing with every optimizer, rate and seed, and compares what the held-out loss ends at.

    Args:
        model: what names a model anywhere; None = a small Llama of characters.
        data: a text to train the model on; None = pydoc's topics.
        names: of optimizers; AdamW is added.
        protocol: steps, rates, seeds; None = the usual ones.
        memory: bytes for an optimizer's state, such as 200MB: what to use within it is chosen.
        length: tokens of a row.
        batch: rows a step.
        out: a .json file for every trial; None = nowhere.
        page: an .html file for pictures of them, with the verdict; None = nowhere.
        trust: allow pickled weights.
        progress: shows what is going on.
        changes: to the protocol, such as steps=60.

    Raises:
        FeatherweightError: an unknown or missing optimizer, too little text, a limit that nothing meets.
    """
    settings = replace(protocol or Protocol(), **changes)
    _check(settings, length, batch, out, page)
    entrants = list(dict.fromkeys([BASELINE, *(find_optimizer(each).name for each in names)]))
    limit = None if memory is None else parse_bytes(memory, "memory")
    workload = _workload(model, data, settings, length, batch, trust)
    module = workload.start(0)
    shapes, tables = {name: tuple(each.shape) for name, each in module.named_parameters()}, embeddings_of(module)
    states = {name: state_bytes(name, shapes, embeddings=tables) for name in entrants}
    if limit is not None:
        check_fits({name: each.total for name, each in states.items()}, limit)
    trials = bake_off(workload, entrants, settings, progress)
    found = scores(trials)
    choice = None if limit is None else choose_optimizer(shapes, limit, found, embeddings=tables)
    result = Comparison(workload.name, settings, tuple(trials), tuple(found), verdict(found), states, choice)
    if out is not None:
        with whole_file(Path(out)) as draft:
            draft.write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    if page is not None:
        with whole_file(Path(page)) as draft:
            write_page(draft, f"Optimizers on {result.workload}", sentences(result), figures(result.to_dict()))
    return result


def sentences(result: Comparison) -> list[str]:
    """What was compared and what came out, for a page."""
    protocol, verdict = result.protocol, result.verdict
    said = [
        f"{protocol.rates} rates and {protocol.seeds} seeds of each optimizer, {protocol.steps} steps on the same "
        "batches; the loss is that on held-out text at the end of the schedule.",
        f"Winner: {verdict.winner}; {verdict.reason}." if verdict.winner else f"No winner: {verdict.reason}.",
    ]
    if result.choice is not None:
        said.append(f"Within the memory limit: {result.choice.optimizer}; {result.choice.reason}.")
    return said


def _check(settings: Protocol, length: int, batch: int, *files: str | Path | None) -> None:
    numbers = {"steps": settings.steps, "rates": settings.rates, "seeds": settings.seeds, "batch": batch}
    for name, value in numbers.items():
        if value < 1:
            raise RecipeError(f"{name} {value}", "is too few", "give at least 1")
    if length < 2 or settings.factor <= 1:
        raise RecipeError(
            f"length {length}, factor {settings.factor}", "compares nothing", "give a length from 2, a factor above 1"
        )
    for each in files:
        if each is not None and Path(each).exists():
            raise OutputError(str(each), "exists already", "give another name, or remove it")


def _workload(
    model: Any, data: str | Path | None, settings: Protocol, length: int, batch: int, trust: bool
) -> Workload:
    if model is None:
        if data is not None:
            raise RecipeError(f"data {str(data)!r}", "needs a model to read it", "name a model, or leave the data out")
        return characters(length, batch)
    opened = open_model(model, trust=trust)
    documents = default_documents() if data is None else read_documents(str(data))
    parts = split_documents(documents)
    rows = tokenize(parts["calibration"], opened.tokenizer, settings.steps * batch, length)
    judged = tokenize(parts["held-out"], opened.tokenizer, 4 * batch, length)
    return of_model(opened, rows.ids, judged.ids, batch)
