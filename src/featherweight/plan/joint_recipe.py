"""A found choice as an ordinary recipe: what is cut, then each matrix's format, for any of the ordinary quantizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from featherweight.core.architecture import EMBEDDING, HEAD, block_index, block_part, in_block
from featherweight.core.importance import Order
from featherweight.core.model import Model
from featherweight.core.quantizer import KEEP
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Technique, build
from featherweight.train.space import WIDTHS, Choice, Space

HEAL = "heal"  # the technique that trains the cut model on what its parent computes


def recipe_of(
    model: Model,
    space: Space,
    order: Order,
    choice: Choice,
    rounding: str = "rtn",
    heal: Mapping[str, object] | None = None,
) -> Recipe:
    """Cutting, training of what is left where asked for, rounding.

    Args:
        model: the parent.
        space: what was searched.
        order: which blocks go first.
        choice: one option of every decision.
        rounding: the quantizer's name.
        heal: fields of the step that trains the cut model on its parent's outputs; None = no such step.
    """
    sizes = {name: choice[name] for name in ("blocks", *WIDTHS) if name in choice}
    steps: list[Technique] = [build("subnet", sizes)] if sizes else []
    if heal is not None:
        steps.append(build(HEAL, dict(heal)))
    formats = formats_of(model, space, order, choice)
    return Recipe((*steps, build(rounding, _fields(formats)))) if formats else Recipe(tuple(steps))


def formats_of(model: Model, space: Space, order: Order, choice: Choice) -> dict[str, str]:
    """The format of every searched matrix of the cut model, by its name there."""
    kept = order.kept(int(choice.get("blocks", model.architecture.blocks)))
    new_index = {old: new for new, old in enumerate(kept)}
    formats = {}
    for name, unit in space.formats.items():
        block = block_index(name)
        if block is None:
            formats[name] = str(choice[unit])
        elif block in new_index:
            formats[in_block(name, new_index[block])] = str(choice[unit])
    return formats


def _fields(formats: Mapping[str, str]) -> dict[str, object]:
    """The commonest format of linears, that of the embedding, and patterns for the rest."""
    linears = {name: kind for name, kind in formats.items() if name not in (EMBEDDING, HEAD)}
    common = Counter(linears.values()).most_common(1)[0][0] if linears else KEEP
    by_part: dict[str, set[str]] = {}
    for name, kind in linears.items():
        by_part.setdefault(block_part(name), set()).add(kind)
    overrides = {f"*.{part}": min(kinds) for part, kinds in by_part.items() if len(kinds) == 1 and kinds != {common}}
    overrides |= {name: kind for name, kind in linears.items() if len(by_part[block_part(name)]) > 1 and kind != common}
    return {"format": common, "embedding": formats.get(EMBEDDING, formats.get(HEAD, KEEP)), "overrides": overrides}
