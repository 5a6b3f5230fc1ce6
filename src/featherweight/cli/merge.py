"""featherweight merge: fine-tunes of one model become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featherweight.cli import options

Sources = Annotated[
    list[str] | None, typer.Option("--source", help="where a fine-tune is now, where it moved: NAME=PATH")
]


def merge(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="the base, then its fine-tunes: models, LoRA folders, task-vector files"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the result")] = None,
    method: Annotated[
        str, typer.Option(help="orthogonal-deltas, task-arithmetic, linear, ties or dare")
    ] = "orthogonal-deltas",
    weight: Annotated[str | None, typer.Option(help="how much of each change: 0.7, or one a model: 1,0.5,0.3")] = None,
    density: Annotated[str | None, typer.Option(help="share of values that stay, for ties and dare")] = None,
    granularity: Annotated[str | None, typer.Option(help="what is made orthogonal: each tensor, or the model")] = None,
    fit: Annotated[str | None, typer.Option(help="fit the weights: gradient or cma-es")] = None,
    validation: Annotated[
        list[str] | None, typer.Option(help="a text to fit on for each model, in their order: give it several times")
    ] = None,
    replay: Annotated[int | None, typer.Option(help="texts that each fine-tune writes itself to fit on")] = None,
    ewc: Annotated[float | None, typer.Option(help="strength of the EWC penalty while fitting")] = None,
    dtype: Annotated[str | None, typer.Option(help="number type of the result: float32, bfloat16 or float16")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="any other field of the method: lambda=0.5")] = None,
    onto: Annotated[Path | None, typer.Option(help="add to this merged folder: all MODELS are fine-tunes then")] = None,
    recipe: Annotated[Path | None, typer.Option(help="a mergekit recipe instead of MODELS")] = None,
    keep_deltas: Annotated[
        bool, typer.Option("--keep-deltas", help="keep the changes in the folder: a rebuild then needs the base alone")
    ] = False,
    base: Annotated[str | None, typer.Option(help="with --onto: where the base is now, where it moved")] = None,
    source: Sources = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Merges fine-tunes of one model; prints first how alike they are, and keeps a ledger to take one out by."""
    from featherweight.cli.merge_table import print_merged
    from featherweight.cli.progress import progress
    from featherweight.core.errors import MergeError
    from featherweight.verbs.merge import merge as run
    from featherweight.verbs.merge import merge_onto, merge_recipe

    if out is None:
        raise MergeError("--out", "is missing", "name the folder of the merged model")
    given = [str(each) for each in models or []]
    fields = _fields(
        {
            "density": density, "granularity": granularity, "fit": fit, "validation": validation, "replay": replay,
            "ewc": ewc, "dtype": dtype,
        },
        set_ or [],
    )  # fmt: skip
    common: dict[str, Any] = {"trust": trust, "progress": progress(quiet)}
    if recipe is not None:
        _refuse_beside("--recipe", {"MODELS": given, "--onto": onto, "--weight": weight, **fields})
        result = merge_recipe(recipe, out, keep=keep_deltas, seed=seed, **common)
    elif onto is not None:
        result = merge_onto(
            onto, given, out, weight=_numbers("--weight", weight or "1"), fields=fields, base=base,
            sources=named(source), device=device, **common,
        )  # fmt: skip
    else:
        result = run(
            given[0] if given else "", given[1:], out, method=method, weight=_numbers("--weight", weight or "1"),
            fields=fields, keep=keep_deltas, seed=seed, device=device, **common,
        )  # fmt: skip
    print_merged(result)


def _fields(options_: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    from featherweight.cli.fields import parsed_fields

    found = {name: value for name, value in options_.items() if value is not None}
    if "density" in found:
        found["density"] = _numbers("--density", found["density"])
    more = parsed_fields(settings)
    return {**found, **{"lambda_" if name == "lambda" else name: value for name, value in more.items()}}


def _numbers(option: str, text: str) -> float | list[float]:
    from featherweight.core.errors import RecipeError

    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        raise RecipeError(f"{option} {text!r}", "is no list of numbers", "write for example 1,0.5") from None
    return found[0] if len(found) == 1 else found


def _refuse_beside(option: str, others: dict[str, Any]) -> None:
    from featherweight.core.errors import RecipeError

    for name, value in others.items():
        if value:
            raise RecipeError(f"{option} with {name}", "say two things at once", "give one of them")


def named(sources: list[str] | None) -> dict[str, str]:
    """NAME=PATH, several times."""
    from featherweight.core.errors import MergeError

    found = {}
    for each in sources or []:
        name, equals, path = each.partition("=")
        if not (name and equals and path):
            raise MergeError(f"--source {each!r}", "names no fine-tune and its place", "write NAME=PATH")
        found[name] = path
    return found
