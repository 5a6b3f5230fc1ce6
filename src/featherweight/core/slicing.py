"""The structural slicer: a smaller model from a list of what to keep.

One contract for every kind of part: **the sliced model computes what the original computes with the dropped parts set
to zero**: a block's output, the columns that read an FFN channel, the output columns of a key/value group with its
query heads, a channel of the residual stream. So an RMSNorm that loses channels gets its weight and epsilon rescaled
(it used to divide by the root mean square over all of them), and so does an embedding that the module scales by the
square root of the hidden size. With norms inside the attention, which share the epsilon, this is exact up to that
epsilon. `Keep.renormalise` leaves that rescaling away. A head that gets narrower keeps the frequencies of its rotary
pairs, by another base, and the divisor of its scores, by a factor on its queries.

Tensors are cut when they are read, so a model larger than memory can be sliced. Rounded tensors keep their values
exactly where rows or whole blocks of columns are dropped; any other choice of columns, and any rescaling, rounds them
again onto the same format. Which parts to keep is the techniques' business.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.core.architecture import block_index, in_block
from featherweight.core.checkpoint import Entry, Stored
from featherweight.core.errors import SliceError
from featherweight.core.formats import FLOATS, Packed, get
from featherweight.core.keep import Cut, Keep, Picks, checked
from featherweight.core.model import MASK, Model

__all__ = ["Keep", "allowed_groups", "reorder", "slice_model"]


def slice_model(model: Model, keep: Keep) -> Model:
    """A smaller model that computes what `model` does with everything that is not kept set to zero.

    Raises:
        SliceError: the plan does not fit the model, leaves one that stock classes cannot load, or the model has masks.
        FormatError: a rounded tensor's format cannot hold rows of the new length.
    """
    cut = checked(model.architecture, keep)
    if cut.whole:
        return model
    if any(entry.format == MASK for entry in model.entries.values()):
        raise SliceError(
            "a model with masks", "would have masks that no longer fit its weights",
            "slice before the masks are made, or fold it to one domain first",
        )  # fmt: skip
    if cut.head_dim is not None:
        _require_plain_heads(model)
    new_index = {old: new for new, old in enumerate(cut.blocks)}
    entries, planned = {}, {}
    for name, entry in model.entries.items():
        block = block_index(name)
        if block is None or block in new_index:
            renamed = name if block is None else in_block(name, new_index[block])
            entries[renamed] = _sliced(name, entry, cut)
            if name in model.planned:
                planned[renamed] = model.planned[name]
    config = {**model.config, **_changed_settings(model, cut)}
    result = dataclasses.replace(model, config=config, entries=entries, planned=planned)
    _require_loadable(result)
    return result


def allowed_groups(model: Model) -> list[int]:
    """How many key/value heads a block may keep so that stock classes load the model, ascending."""
    counts = range(1, model.architecture.kv_heads + 1)
    return [count for count in counts if _refusal(_with_groups(model, count)) is None]


def reorder(
    model: Model,
    ffn: Mapping[int, Sequence[int]] | None = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    hidden: Sequence[int] | None = None,
) -> Model:
    """The same function with its channels in another order, so that a prefix holds those that matter.

    Args:
        model: an unrounded model: groups of rounded columns would be mixed and rounded again.
        ffn: new order of the FFN channels, by block.
        groups: new order of the key/value groups, by block.
        hidden: new order of the residual stream's channels.
    """
    order = Cut(model.architecture, range(model.architecture.blocks), ffn, groups, hidden)
    entries = {name: _sliced(name, entry, order) for name, entry in model.entries.items()}
    return dataclasses.replace(model, entries=entries)


def refused_sizes(model: Model, groups: int, hidden: int) -> str | None:
    """Why stock classes do not load the model with these sizes; None when they do."""
    wanted = _with_groups(model, groups)
    return _refusal(dataclasses.replace(wanted, config={**wanted.config, "hidden_size": hidden}))


def _sliced(name: str, entry: Entry, cut: Cut) -> Entry:
    """An entry that is cut when it is read."""
    picks = cut.picks(name, len(entry.shape))
    factor, offset = cut.rescaling(name, cut.architecture.axes(name, len(entry.shape)))
    if factor == 1.0 and all(pick is None for pick in picks):
        return entry
    shape = tuple(size if pick is None else pick.numel() for size, pick in zip(entry.shape, picks, strict=True))
    load = functools.partial(_load, entry, picks, factor, offset)
    return Entry(entry.format, shape, _stored_bytes(name, entry, shape), load)


def _stored_bytes(name: str, entry: Entry, shape: tuple[int, ...]) -> int:
    if entry.format in FLOATS or len(shape) != 2:
        return entry.nbytes * math.prod(shape) // math.prod(entry.shape)
    get(entry.format).require(shape, name)
    return get(entry.format).tensor_bytes(shape)


def _load(entry: Entry, picks: Picks, factor: float, offset: float) -> Stored:
    stored = entry.load()
    if isinstance(stored, Packed):
        return _sliced_packed(stored, picks, factor)
    for dimension, pick in enumerate(picks):
        if pick is not None:
            stored = stored.index_select(dimension, pick)
    if factor == 1.0:
        return stored
    return ((stored.float() + offset) * factor - offset).to(stored.dtype)


def _sliced_packed(packed: Packed, picks: Picks, factor: float) -> Packed:
    rows, columns = picks
    number_format = get(packed.format)
    if rows is not None:
        packed = number_format.take_rows(packed, rows)
    if factor != 1.0:  # new values on new scales, rounded once
        values = packed.dequantize()
        return number_format.fit((values if columns is None else values[:, columns]) * factor)
    return packed if columns is None else number_format.take_columns(packed, columns)


def _changed_settings(model: Model, cut: Cut) -> dict[str, Any]:
    """Configuration keys of the sliced model that differ, and head_dim, which no class may guess any more."""
    architecture, settings = model.architecture, model.settings
    changed: dict[str, Any] = {"head_dim": architecture.head_dim}
    if len(cut.blocks) < architecture.blocks:
        changed["num_hidden_layers"] = len(cut.blocks)
        changed.update(_per_block_settings(settings, cut.blocks, architecture.blocks))
    if cut.ffn is not None:
        changed["intermediate_size"] = len(cut.ffn[cut.blocks[0]])
    if cut.groups is not None:
        groups = len(cut.groups[cut.blocks[0]])
        changed["num_key_value_heads"] = groups
        changed["num_attention_heads"] = groups * architecture.heads_a_group
    if cut.hidden is not None:
        changed["hidden_size"] = len(cut.hidden)
        if not cut.renormalise:
            changed["rms_norm_eps"] = settings["rms_norm_eps"] * architecture.sizes["hidden"] / len(cut.hidden)
    if cut.head_dim is not None:
        changed.update(head_dim=cut.head_dim, rope_parameters=_same_frequencies(model, cut.head_dim))
    return changed


def narrower_heads(model: Model) -> str | None:
    """Why heads of this model cannot be narrower; None when they can."""
    rope = model.settings.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or "rope_theta" not in rope:
        return "its rotary frequencies follow no single base"
    if rope.get("partial_rotary_factor", 1.0) != 1.0 or model.settings.get("query_pre_attn_scalar"):
        return "its rotation or its score's divisor does not follow the head's width"
    axes = [model.architecture.axes(name, len(entry.shape)) for name, entry in model.entries.items()]
    if ("head",) in axes or any("+" in axis for each in axes for axis in each):
        return "it has norms inside the heads, or queries and keys in one matrix"
    return None


def _require_plain_heads(model: Model) -> None:
    reason = narrower_heads(model)
    if reason is not None:
        raise SliceError(f"heads of {model.architecture.class_name}", f"cannot be narrower: {reason}", "keep head_dim")


def _same_frequencies(model: Model, head_dim: int) -> dict[str, Any]:
    """Rotary settings that give the first pairs of a narrower head the frequencies that they had.

    base ** (-2 i / width) stays what it is when the base is raised to kept / width.
    """
    rope = dict(model.settings["rope_parameters"])
    return {**rope, "rope_theta": float(rope["rope_theta"]) ** (head_dim / model.architecture.head_dim)}


def _per_block_settings(settings: Mapping[str, Any], blocks: Sequence[int], count: int) -> dict[str, Any]:
    """Lists with one entry a block (layer_types and the like); written out even where a default made them."""
    lists = {key: value for key, value in settings.items() if "layer" in key and isinstance(value, list)}
    return {key: [value[block] for block in blocks] for key, value in lists.items() if len(value) == count}


def _with_groups(model: Model, count: int) -> Model:
    heads = count * model.architecture.heads_a_group
    sizes = {"num_key_value_heads": count, "num_attention_heads": heads, "head_dim": model.architecture.head_dim}
    return dataclasses.replace(model, config={**model.config, **sizes})


def _refusal(model: Model) -> str | None:
    """Why the stock configuration class does not take this model's sizes; None when it does."""
    try:
        model.hf_config()
    except Exception as error:  # the library raises several kinds, none of them public
        return str(error.__cause__ or error).strip().splitlines()[-1].strip()
    return None


def _require_loadable(model: Model) -> None:
    refusal = _refusal(model)
    if refusal is not None:
        raise SliceError(
            "the sliced model", f"cannot be loaded by stock transformers ({refusal})",
            "keep another number of groups or hidden channels",
        )  # fmt: skip
