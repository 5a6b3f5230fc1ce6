"""adapt_segmenter: an instance segmenter learns new scenes; what was tuned is a small folder beside the model.

    import featherweight as fw
    scenes = fw.read_scenes("photos", size=(384, 384))                              # with COCO annotations
    adapted = fw.adapt_segmenter(model, scenes, "street", reference=old_images)     # LoRA or serial adapters
    model = fw.load_segmenter(fresh_model, "street")

For transformers' Mask2Former and Deformable DETR, as Python objects: images have no place in the text recipes of
`featherweight adapt`. Heads are always trained; beside them LoRA in the deformable attention, which can be merged, or
serial adapters, which cannot and cost time. `method="auto"` measures how far the new images are from pretraining-like
ones and takes adapters only beyond a threshold. arXiv 2606.01947.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featherweight.core.adapter_facts import AdapterFacts
from featherweight.core.errors import DataError, OutputError, RecipeError
from featherweight.core.lazy import torch
from featherweight.core.module_fingerprint import module_fingerprint
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.scenes import Scenes
from featherweight.core.version import __version__
from featherweight.core.whole import whole_folder
from featherweight.measure.feature_shift import feature_shift, pooled_features
from featherweight.measure.mask_iou import scene_ious
from featherweight.train.loop import Schedule
from featherweight.train.segmentation import Tuned, train_on_scenes, train_only

if TYPE_CHECKING:
    from featherweight.models.deformable_lora import DeformableLora
    from featherweight.models.serial_adapter import SerialAdapter

Method = Literal["auto", "lora", "adapters", "heads", "full"]
METHODS = ("auto", "lora", "adapters", "heads", "full")
THRESHOLD = 2.0
"""Feature shift from which adapters are taken: recoloured scenes of digits scored 1.0, another world of them 2.9."""
_RELOADED = 1e-5


@dataclass(frozen=True)
class AdaptedSegmenter:
    """A segmenter that was adapted.

    Attributes:
        model: with what was tuned; LoRA in PEFT's wrapper.
        method: "lora", "adapters", "heads" or "full".
        tuned: how much was trained.
        losses: of every step.
        shift: of the new images' features; None where nothing had to be chosen.
        before: mean matched IoU of the base on the held-out scenes; None without such scenes.
        after: that of the adapted model.
        folder: where it was saved; None = nowhere.
    """

    model: Any
    method: str
    tuned: Tuned
    losses: tuple[float, ...]
    shift: float | None = None
    before: float | None = None
    after: float | None = None
    folder: Path | None = None

    def merged(self) -> Any:
        """An ordinary transformers model that computes the same; this one stays as it is.

        Raises:
            AdapterError: it has serial adapters.
        """
        from featherweight.models.serial_adapter import merge

        if self.method == "adapters":
            merge(self.model)
        model = copy.deepcopy(self.model)
        return model.merge_and_unload() if self.method == "lora" else model


def adapt_segmenter(
    model: Any,
    scenes: Scenes,
    out: str | Path | None = None,
    *,
    method: Method = "auto",
    reference: torch.Tensor | None = None,
    threshold: float = THRESHOLD,
    lora: DeformableLora | None = None,
    adapters: SerialAdapter | None = None,
    heads: Sequence[str] = (),
    steps: int = 200,
    learning_rate: float = 1e-3,
    warmup: int = 10,
    weight_decay: float = 0.01,
    batch: int = 4,
    held_out: Scenes | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> AdaptedSegmenter:
    """Adapts a copy of a model; the given one stays as it is.

    Args:
        model: a transformers Mask2FormerForUniversalSegmentation or DeformableDetrForObjectDetection.
        scenes: to train on.
        out: the folder to save to; None = nowhere.
        method: "auto" chooses "lora" or "adapters"; "heads" inserts nothing, "full" trains everything.
        reference: images like those of pretraining, for "auto".
        threshold: feature shift from which "auto" takes adapters.
        lora: where, and of which rank; None = as in the paper's script.
        adapters: how many in a row, how narrow and how wired; None = two, a quarter, no-op.
        heads: modules to train whole; () = those known for this kind of model.
        steps: updates; after 0 the model computes what the base does.
        learning_rate: the highest one.
        warmup: steps in which the rate rises.
        weight_decay: of AdamW.
        batch: scenes an update.
        held_out: scenes to measure on before and after.
        seed: of what is drawn.
        progress: shows what is going on.

    Raises:
        FeatherweightError: the model, the scenes or an argument does not do.
    """
    from featherweight.models.deformable import require_deformable
    from featherweight.models.deformable_lora import DeformableLora
    from featherweight.models.serial_adapter import SerialAdapter

    require_deformable(model)
    _require_arguments(model, scenes, method, reference, out, steps)
    shown, run = progress or Progress(), Run(seed=seed)
    settings = lora or DeformableLora(), adapters or SerialAdapter()
    shift = _shift(model, reference, scenes) if method == "auto" and reference is not None else None
    chosen = ("adapters" if shift >= threshold else "lora") if shift is not None else str(method)
    fingerprint = module_fingerprint(model) if out is not None else ""
    child, tuned, names = _prepared(copy.deepcopy(model), chosen, *settings, tuple(heads), run)
    shown.say(f"{chosen}: {tuned}" + ("" if shift is None else f"; feature shift {shift:.2f}, threshold {threshold:g}"))
    pace = Schedule(steps, learning_rate, warmup)
    order = run.generator("segmentation/order")
    losses = train_on_scenes(child, scenes, pace, batch, order, weight_decay, f"training ({chosen})", shown)
    before, after = (None if held_out is None else float(scene_ious(each, held_out).mean()) for each in (model, child))
    result = AdaptedSegmenter(child, chosen, tuned, tuple(losses), shift, before, after)
    if out is None:
        return result
    facts = _facts(result, fingerprint, {"steps": steps, "learning_rate": learning_rate, "batch": batch, "seed": seed})
    return _saved(result, model, Path(out), settings[1], names, facts, scenes)


def load_segmenter(model: Any, folder: str | Path) -> Any:
    """A copy of a base model with what a folder of `adapt_segmenter` holds; LoRA comes in PEFT's wrapper.

    Args:
        model: the base, as it was before.
        folder: what was saved.

    Raises:
        AdapterError: the folder cannot be read, or belongs to another base.
    """
    from featherweight.models.segmenter_folder import load_adapted

    return load_adapted(copy.deepcopy(model), folder)


def _require_arguments(
    model: Any, scenes: Scenes, method: str, reference: torch.Tensor | None, out: str | Path | None, steps: int
) -> None:
    if isinstance(scenes, str | Path):
        raise DataError(
            str(scenes), "is a path, and scenes are wanted",
            f"read it first: featherweight.read_scenes({str(scenes)!r}, size=(384, 384))",
        )  # fmt: skip
    if method not in METHODS:
        raise RecipeError(f"method {method!r}", "is unknown", f"use one of {', '.join(METHODS)}")
    if method == "auto" and reference is None:
        raise DataError(
            "method 'auto'", "needs images like those of pretraining to compare with",
            "give reference=..., or choose 'lora' or 'adapters'",
        )  # fmt: skip
    if steps < 0:
        raise RecipeError(f"steps = {steps}", "is below 0", "use 0 or more")
    if out is not None and method in ("heads", "full"):
        raise RecipeError(
            f"method {method!r}", "inserts nothing that could be saved by itself",
            "leave out the folder, and save the result's model with save_pretrained",
        )  # fmt: skip
    if out is not None and Path(out).exists():
        raise OutputError(str(out), "exists already", "choose another folder or remove it")
    highest = max(int(each.max()) for each in scenes.classes)
    if highest >= model.config.num_labels:
        raise DataError(
            scenes.source, f"has the class {highest}, and the model has {model.config.num_labels} classes",
            "number classes from 0, or load the model with num_labels=... and ignore_mismatched_sizes=True",
        )  # fmt: skip


def _shift(model: Any, reference: torch.Tensor, scenes: Scenes) -> float:
    from featherweight.models.deformable import backbone

    reader = backbone(model)
    return feature_shift(pooled_features(reader, reference), pooled_features(reader, scenes.images))


def _prepared(
    model: Any, method: str, lora: DeformableLora, adapters: SerialAdapter, heads: tuple[str, ...], run: Run
) -> tuple[Any, Tuned, list[str]]:
    """The model with what is inserted and only the right parameters trainable, and the names of its heads."""
    from featherweight.models.deformable import head_names
    from featherweight.models.deformable_lora import attach_lora
    from featherweight.models.serial_adapter import insert, inserted

    names = head_names(model, heads)
    unique = {id(each): each.numel() for name in names for each in model.get_submodule(name).parameters()}
    tuned = Tuned(sum(unique.values()), 0, sum(each.numel() for each in model.parameters()))
    if method == "full":
        return model.requires_grad_(True), replace(tuned, whole=True), names
    generator = run.generator("segmentation/inserted")
    if method == "lora":
        wrapped = attach_lora(model, lora, generator, heads)
        trained = sum(each.numel() for each in wrapped.parameters() if each.requires_grad)
        return wrapped, replace(tuned, inserted=trained - tuned.heads), names
    if method == "adapters":
        insert(model, adapters, generator)
    others = list(inserted(model).values())
    train_only(model, names, others)
    return model, replace(tuned, inserted=sum(each.numel() for each in others)), names


def _facts(result: AdaptedSegmenter, base: str, settings: dict[str, Any]) -> AdapterFacts:
    receipt = {
        **settings, "tuned": result.tuned.trained, "share": result.tuned.share, "shift": result.shift,
        "loss": [result.losses[0], result.losses[-1]] if result.losses else [],
        "iou": {"before": result.before, "after": result.after},
    }  # fmt: skip
    name, method = type(result.model).__name__, f"segmenter-{result.method}"
    return AdapterFacts(base, name, method, __version__, (receipt,))


def _saved(
    result: AdaptedSegmenter,
    base: Any,
    folder: Path,
    adapters: SerialAdapter,
    heads: list[str],
    facts: AdapterFacts,
    scenes: Scenes,
) -> AdaptedSegmenter:
    """Writes the folder whole or not at all, and loads it on a fresh base as part of it."""
    from featherweight.models.segmenter_folder import save_lora, save_serial

    with whole_folder(folder) as draft:
        if result.method == "lora":
            save_lora(result.model, draft, facts)
        else:
            save_serial(result.model, adapters, heads, draft, facts)
        again, images = load_segmenter(base, draft), scenes.images[:2].to(base.device)
        with torch.no_grad():
            found, expected = (_logits(each(pixel_values=images)) for each in (again, result.model))
        difference = float((found - expected).abs().max())
        if not difference <= _RELOADED * max(float(expected.abs().max()), 1.0):
            raise OutputError(
                str(folder), f"computes logits that differ by {difference:.3g} when loaded again",
                "report this: nothing was kept",
            )  # fmt: skip
    return replace(result, folder=folder)


def _logits(output: Any) -> torch.Tensor:
    found: torch.Tensor | None = getattr(output, "masks_queries_logits", None)
    logits: torch.Tensor = output.logits if found is None else found
    return logits
