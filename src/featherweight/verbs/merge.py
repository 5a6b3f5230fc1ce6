"""merge: puts fine-tunes of one model together, says first how alike they are, and keeps a ledger to take one out by.

    import featherweight as fw
    fw.merge("base", ["ft-a", "ft-b", "ft-c"], "merged")
    fw.merge_onto("merged", ["ft-d"], "merged-4")
    fw.merge_recipe("mergekit.yaml", "merged")

Models may be larger than memory: everything is read a stretch at a time, and at most a tensor of each is held. The
result is an ordinary model folder. Adding a model later gives, bit for bit, what merging all at once would have given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.delta_sources import open_deltas
from featherweight.core.errors import MergeError, RecipeError
from featherweight.core.memory import forget_peak
from featherweight.core.merge_ledger import MergeRecord, read_merge
from featherweight.core.mergekit_recipe import read_mergekit
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.core.store import Store
from featherweight.core.technique import build, find, techniques
from featherweight.train.merge_technique import MergeTechnique
from featherweight.verbs.merge_folder import Merged, PlannedMerge, require_free
from featherweight.verbs.merge_sources import open_base, open_recorded

DEFAULT = "orthogonal-deltas"


def merge(
    base: str | Path,
    models: Sequence[str | Path],
    out: str | Path,
    *,
    method: str = DEFAULT,
    weight: float | Sequence[float] = 1.0,
    fields: Mapping[str, Any] | None = None,
    keep: bool = False,
    seed: int = 0,
    device: str = "cpu",
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Merges fine-tunes of a base.

    Args:
        base: the model that all of them started from.
        models: fine-tuned models, LoRA folders or task-vector files, in the order in which they arrived.
        out: folder of the result.
        method: a technique that merges, as `featherweight list` shows.
        weight: of each change, or of all.
        fields: other fields of the technique.
        keep: also keep the deltas in the folder, exactly, so that a rebuild needs the base alone.
        seed: of random choices.
        device: for fitting coefficients.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on; cosines are said before anything is merged.

    Raises:
        MergeError: there is nothing to merge, or a model does not belong to the base.
        OutputError: the folder exists.
    """
    forget_peak()
    require_free(Path(out))
    require_device(device)
    if not models:
        raise MergeError("a merge of no model", "has nothing to merge", "name at least one fine-tune of the base")
    technique = built(method, models, {"weight": _plain(weight), **(fields or {})})
    model = open_model(base, cache, trust, check=False)  # the result is as complete as the base
    deltas = open_deltas(models, model, cache, trust)
    run = Run(seed=seed, device=device, progress=progress or Progress(), store=Store())
    return PlannedMerge(technique, model, str(base), deltas, run, keep=keep).write(Path(out))


def merge_onto(
    folder: str | Path,
    models: Sequence[str | Path],
    out: str | Path,
    *,
    weight: float | Sequence[float] = 1.0,
    fields: Mapping[str, Any] | None = None,
    base: str | Path | None = None,
    sources: Mapping[str, str | Path] | None = None,
    device: str = "cpu",
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Adds fine-tunes to a merged folder: the same model as if all had been merged at once.

    Args:
        folder: that merge wrote.
        models: to be added, in order.
        out: folder of the result.
        weight: of each change that is added.
        fields: fields that each added model has of its own, such as its density or validation text.
        base: where the base is now; None = where it was.
        sources: where earlier fine-tunes are now, by name; others are looked for where they were.
        device: for fitting coefficients.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.

    Raises:
        MergeError: something is not where it was or not what it was, or a model was subtracted from the folder.
        LedgerError: the ledger does not hold.
    """
    forget_peak()
    require_free(Path(out))
    require_device(device)
    record = read_merge(Path(folder))
    if record.subtracted:
        raise MergeError(
            f"--onto {folder}", f"had {record.subtracted[-1]} subtracted, which cannot be replayed with another model",
            "take it out with unmerge --mode rebuild first",
        )  # fmt: skip
    if not models:
        raise MergeError(f"--onto {folder}", "has nothing to add", "name at least one fine-tune of its base")
    model = open_base(record, base, cache, trust)
    earlier = open_recorded(record, range(len(record.deltas)), model, sources or {}, cache, trust)
    added = open_deltas(models, model, cache, trust)
    _rename(added, {delta.name for delta in earlier})
    technique = _extended(record, [str(delta.path) for delta in earlier], models, weight, fields or {})
    run = Run(seed=record.seed, device=device, progress=progress or Progress(), store=Store())
    history = [{"step": "history", "of": record.head, "done": f"added {', '.join(each.name for each in added)}"}]
    return PlannedMerge(
        technique, model, str(base or record.base_path), [*earlier, *added], run,
        record.digests, bool(record.kept), history,
    ).write(Path(out))  # fmt: skip


def merge_recipe(
    recipe: str | Path,
    out: str | Path,
    *,
    keep: bool = False,
    seed: int = 0,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Merges as a mergekit recipe says.

    Args:
        recipe: a YAML file for linear, task_arithmetic, ties, dare_linear or dare_ties.
        out: folder of the result.
        keep: also keep the deltas in the folder.
        seed: of random choices.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.

    Raises:
        RecipeError: it asks for something that cannot be expressed here; it is named.
    """
    found = read_mergekit(Path(recipe))
    return merge(
        found.base, found.models, out, method=found.method, fields=found.fields, keep=keep, seed=seed, trust=trust,
        cache=cache, progress=progress,
    )  # fmt: skip


def require_device(device: str) -> None:
    """Refuses a device that is not there; the processor always is, and looking for others takes a while."""
    if device != "cpu":
        from featherweight.verbs.prepare import check_device

        check_device(device)


def built(method: str, models: Sequence[str | Path], fields: Mapping[str, Any]) -> MergeTechnique:
    """The technique with its models.

    Raises:
        RecipeError: it is unknown, merges nothing, or has no such field.
    """
    from featherweight.techniques.merge import dare, linear, orthogonal_deltas, task_arithmetic, ties  # noqa: F401

    cls = find(method)  # ours are there without loading all others
    if not issubclass(cls, MergeTechnique):
        merging = [name for name, each in techniques().items() if issubclass(each, MergeTechnique)]
        raise RecipeError(f"--method {method}", f"is no technique that merges, but one of the kind {cls.kind}",
                          f"use one of {', '.join(merging)}")  # fmt: skip
    technique = build(method, {**fields, "models": [str(model) for model in models]})
    assert isinstance(technique, MergeTechnique)
    return technique


def _plain(weight: float | Sequence[float]) -> float | list[float]:
    return weight if isinstance(weight, (int, float)) else list(weight)


def _rename(added: Sequence[Any], taken: set[str]) -> None:
    """Gives an added delta a name that no earlier one has."""
    for delta in added:
        number, name = 1, delta.name
        while delta.name in taken:
            number += 1
            delta.name = f"{name}#{number}"
        taken.add(delta.name)


def _extended(
    record: MergeRecord,
    paths: Sequence[str],
    models: Sequence[str | Path],
    weight: float | Sequence[float],
    fields: Mapping[str, Any],
) -> MergeTechnique:
    """The recorded technique with further models; what is not given of these is what all earlier ones have."""
    given = {"weight": _plain(weight), **fields}
    own: dict[str, list[Any]] = {}
    for name in sorted({name for each in record.deltas for name in each.fields} | set(given)):
        earlier = [each.fields.get(name) for each in record.deltas]
        values = given[name] if name in given else _common(name, earlier, record)
        own[name] = [*earlier, *(values if isinstance(values, (list, tuple)) else [values] * len(models))]
        if None in own[name]:
            raise RecipeError(
                f"{name} of what is added", f"cannot be given: {record.folder} was merged without it", "leave it out"
            )
    return built(record.method, [*paths, *models], {**record.fields, **own})


def _common(name: str, earlier: Sequence[Any], record: MergeRecord) -> Any:
    if len({str(each) for each in earlier}) != 1 or name == "validation":
        raise RecipeError(
            f"{name} of what is added", f"is not given, and those of {record.folder} are {earlier}", "give it as well"
        )
    return earlier[0]
