"""graft: a small classifier from the first layers of a donor, saved as a transformers model, with its two controls.

    import featherweight as fw
    fw.graft("smollm2-135m", "labels.jsonl", "out", fields={"layers": (4, 8, 12)})

The controls are trained in the same way on the same rows: truncated transfer (the deepest layer alone) and the whole
donor (its last layer). What is saved is loaded again and must compute the same before it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.core.architecture import supported
from featherweight.core.checkpoint import read_config
from featherweight.core.errors import CheckpointError, OutputError, RecipeError
from featherweight.core.host import no_bars
from featherweight.core.in_file import dtype_name
from featherweight.core.labelled import Labelled, read_labelled
from featherweight.core.lazy import torch, transformers
from featherweight.core.progress import Progress
from featherweight.core.rates import wilson
from featherweight.core.receipt import versions
from featherweight.core.run import Run
from featherweight.core.shards import SINGLE, shards_bytes
from featherweight.core.source import open_model
from featherweight.core.technique import build
from featherweight.core.whole import whole_folder
from featherweight.techniques.restructure.graft import Graft, Scion, candidate_layers, donor_features, grow
from featherweight.verbs.prepare import check_device

if TYPE_CHECKING:
    from featherweight.models.donors import Donor, Features
    from featherweight.models.grafted import TaskModel

FACTS = "graft.json"
_RELOADED = 1e-5


@dataclass(frozen=True)
class Variant:
    """One classifier and what was measured of it.

    Attributes:
        name: "graft", "trimmed", "truncated" or "full donor".
        layers: where its features come from.
        accuracy: share of the test rows whose class it finds, with its 95 % Wilson interval.
        parameters: weights that it needs.
        bytes: of its safetensors file in float32; of the saved one as it is on disk, of the others as computed.
    """

    name: str
    layers: tuple[int | str, ...]
    accuracy: float
    interval: tuple[float, float]
    parameters: int
    bytes: int


@dataclass(frozen=True)
class GraftResult:
    """The classifier, and the comparison with its controls.

    Attributes:
        model: a transformers model.
        variants: the graft first.
        donor_parameters: weights of the whole donor.
        rows: rows of the training, validation and test parts.
        largest: share of the test rows that are of the largest class.
        probes: how the layers were chosen; empty where they were given.
        folder: where it was saved; None = nowhere.
    """

    model: TaskModel
    variants: tuple[Variant, ...]
    donor_parameters: int
    rows: Mapping[str, int]
    largest: float
    probes: tuple[tuple[int | str, float], ...]
    folder: Path | None


def graft(
    donor: Any,
    data: Labelled | str | Path,
    out: str | Path | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    trim: bool = False,
    controls: bool = True,
    seed: int = 0,
    device: str = "cpu",
    tokenizer: Any = None,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> GraftResult:
    """Makes a classifier from the first layers of a donor, which stays as it is.

    Args:
        donor: what names a model anywhere, the folder of a transformers encoder, a `Model`, a transformers model, or a
            `torch.nn` network of images.
        data: a .jsonl file with "text" and "label" a line, or labelled texts or images.
        out: the folder to save to; None = nowhere.
        fields: of the technique `graft`, such as layers, most, deepest, pool, hidden, steps.
        trim: keep only the embeddings of tokens that the training and validation texts use.
        controls: measure truncated transfer and the whole donor too.
        seed: of the parts of the data and the head.
        device: where a language model's blocks run.
        tokenizer: for a transformers model of texts.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.

    Raises:
        FeatherweightError: the donor, the data or a field does not do.
    """
    settings = build(Graft.name, dict(fields or {}))
    assert isinstance(settings, Graft)
    if settings.layers == ():
        raise RecipeError("graft.layers", "are none", "name some, or leave them to be chosen")
    if out is not None and Path(out).exists():
        raise OutputError(str(out), "exists already", "choose another folder or remove it")
    check_device(device)
    labelled = data if isinstance(data, Labelled) else read_labelled(data)
    parts = labelled.parts(seed)
    opened = _opened(donor, tokenizer, trust, cache, device)
    if trim and not opened.of_text:
        raise RecipeError("a trimmed vocabulary", "is asked for, and the donor reads images", "leave it out")
    run = Run(seed=seed, device=device, progress=progress or Progress())
    layers = {*candidate_layers(opened, settings), *([opened.last] if controls else [])}
    inputs = opened.inputs(labelled, settings.length)
    known = donor_features(opened, inputs, sorted(layers, key=opened.depth), settings, run)
    scion = grow(opened, labelled, settings, run, known)
    variants = [_variant("graft", scion.model, scion.layers, scion.correct)]
    model = scion.model
    if trim:
        model, variant = _trimmed(opened, labelled, scion, settings, parts)
        variants.append(variant)
    variants += _controls(opened, labelled, settings, scion, run, known) if controls else []
    targets = labelled.targets[parts["test"]]
    result = GraftResult(
        model, tuple(variants), opened.parameters(), {name: len(rows) for name, rows in parts.items()},
        float(targets.bincount().max()) / len(targets), scion.probes, None if out is None else Path(out),
    )  # fmt: skip
    return result if out is None else _saved(result, opened, labelled, settings, seed, parts)


def _opened(donor: Any, tokenizer: Any, trust: bool, cache: Path | None, device: str) -> Donor:
    """The donor; a folder whose architecture is none of ours is opened by transformers."""
    from featherweight.models.donors import donor_of

    if not isinstance(donor, str | Path):
        return donor_of(donor, tokenizer, device)
    folder = Path(donor)
    if (folder / "config.json").is_file() and read_config(folder).get("model_type") not in supported():
        return donor_of(*_encoder(folder), device)
    return donor_of(open_model(donor, cache, trust), device=device)


def _encoder(folder: Path) -> tuple[Any, Any]:
    """A transformers model without its head, and its tokenizer, from a local folder with safetensors."""
    try:
        module = transformers.AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        return module, transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            str(folder), f"cannot be loaded by transformers ({str(error).splitlines()[0]})",
            "give a folder with config.json, safetensors and tokenizer.json",
        ) from None  # fmt: skip


def _variant(name: str, model: TaskModel, layers: tuple[int | str, ...], correct: torch.Tensor) -> Variant:
    hits, count = float(correct.sum()), len(correct)
    shapes = {key: (dtype_name(value.dtype), tuple(value.shape)) for key, value in model.state_dict().items()}
    return Variant(
        name, layers, hits / count, wilson(hits, count),
        sum(each.numel() for each in model.parameters()), shards_bytes(shapes),
    )  # fmt: skip


def _controls(donor: Donor, data: Labelled, settings: Graft, scion: Scion, run: Run, known: Features) -> list[Variant]:
    """Truncated transfer and the whole donor, with heads trained like the graft's."""
    found = []
    for name, layer in (("truncated", scion.layers[-1]), ("full donor", donor.last)):
        control = grow(donor, data, settings.model_copy(update={"layers": (layer,)}), run, known)
        found.append(_variant(name, control.model, control.layers, control.correct))
    return found


def _trimmed(
    donor: Donor, data: Labelled, scion: Scion, settings: Graft, parts: Mapping[str, Sequence[int]]
) -> tuple[TaskModel, Variant]:
    """The graft with the embeddings of the tokens that were seen, measured on the test part."""
    from featherweight.models.donors import batches
    from featherweight.models.grafted import GraftForSequenceClassification, trimmed

    inputs = donor.inputs(data, settings.length)
    seen = inputs["input_ids"][[*parts["training"], *parts["validation"]]].unique().tolist()
    assert isinstance(scion.model, GraftForSequenceClassification)
    model = trimmed(scion.model, [*seen, *donor.always_kept()])
    some = {name: each[list(scion.test)] for name, each in inputs.items()}
    with torch.no_grad():
        found = torch.cat([model(**batch).logits for batch in batches(some)]).argmax(1)
    correct = (found == data.targets[list(scion.test)]).double()
    return model, _variant("trimmed", model, scion.layers, correct)


def _saved(
    result: GraftResult, donor: Donor, data: Labelled, settings: Graft, seed: int, parts: Mapping[str, Sequence[int]]
) -> GraftResult:
    """Writes the folder whole or not at all, loads it again as part of it, and takes the bytes from the file."""
    assert result.folder is not None
    inputs = {name: each[list(parts["test"])[:8]] for name, each in donor.inputs(data, settings.length).items()}
    with whole_folder(result.folder) as draft, no_bars():
        result.model.save_pretrained(draft)
        donor.write_companions(draft)
        (draft / SINGLE).chmod(0o644)
        _check_reload(result, draft, inputs)
        saved = "trimmed" if any(each.name == "trimmed" for each in result.variants) else "graft"
        nbytes = (draft / SINGLE).stat().st_size
        variants = tuple(replace(each, bytes=nbytes) if each.name == saved else each for each in result.variants)
        facts = {
            "saved": saved, "variants": [asdict(each) for each in variants],
            "donor_parameters": result.donor_parameters, "rows": dict(result.rows), "largest_class": result.largest,
            "probes": result.probes, "seed": seed, "fields": settings.fields(), "versions": versions(),
        }  # fmt: skip
        (draft / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return replace(result, variants=variants)


def _check_reload(result: GraftResult, draft: Path, inputs: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        again = type(result.model).from_pretrained(draft)
        difference = float((again(**inputs).logits - result.model(**inputs).logits).abs().max())
    if not difference <= _RELOADED:
        raise OutputError(
            str(result.folder), f"computes logits that differ by {difference:.3g} when loaded again",
            "report this: nothing was kept",
        )  # fmt: skip
