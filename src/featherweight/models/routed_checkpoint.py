"""A `Model` with one mask a domain: made from weights and masks, read back, folded to one domain.

The weights are the union of all masks, in their own names and formats; each masked linear has a tensor `masks` beside
it (`models.bitmasks`), which counts in size and fingerprint like any other. Storage stays dense: zeros save no bytes,
and every domain adds one bit a weight. Folding gives an ordinary model with zeros, which exports like any other.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from featherweight.core.architecture import block_part, variant_of
from featherweight.core.checkpoint import Entry, Stored
from featherweight.core.errors import RecipeError
from featherweight.core.lazy import torch
from featherweight.core.model import MASK, Model
from featherweight.core.sparsity import with_zeros
from featherweight.models.bitmasks import pack, unpack
from featherweight.models.router import Router

PREFIX = "routed_sparse_"  # of the model type, as in architectures.toml
OWN = ("domains", "fallback", "masked")

Masks = Mapping[str, "torch.Tensor"]
"""bool, by parameter name."""


def is_routed(model: Model) -> bool:
    """Whether a model has masks by domain."""
    return model.architecture.variant == PREFIX


def mask_name(weight: str) -> str:
    """The name of the tensor that holds the masks of a weight."""
    return f"{weight.removesuffix('.weight')}.masks"


def routed(model: Model, weights: Mapping[str, Stored], masks: Mapping[str, Masks], fallback: str) -> Model:
    """A model of our class from a stock one.

    Args:
        model: an ordinary model.
        weights: tensors that differ from the model's; zero wherever no mask keeps a weight.
        masks: by domain; all of the same linears, which are the same in every block.
        fallback: the domain of input without a tag.
    """
    router = Router(tuple(masks), fallback)
    names = list(next(iter(masks.values())))
    bits = {mask_name(name): pack(torch.stack([mask[name] for mask in masks.values()])) for name in names}
    config = {
        "model_type": PREFIX + model.architecture.model_type,
        "architectures": [f"RoutedSparse{model.architecture.class_name}"],
        "domains": list(router.domains),
        "fallback": router.fallback,
        "masked": list(dict.fromkeys(block_part(name).removesuffix(".weight") for name in names)),
    }
    return model.with_changes({**weights, **bits}, config=config)


def router_of(model: Model) -> Router:
    """Which domains a routed model has.

    Raises:
        RecipeError: it has none.
    """
    if not is_routed(model):
        raise RecipeError(
            str(model.folder), "has no masks by domain", "give a model that routed-lottery made, without fold"
        )
    return Router(tuple(model.config["domains"]), model.config["fallback"])


def masks_of(model: Model, tag: str | None) -> dict[str, torch.Tensor]:
    """The masks of one domain, bool, by parameter name."""
    domain = router_of(model).pick(tag)
    return {name: _mask(model.entries[mask_name(name)], domain, model.entries[name].shape) for name in _masked(model)}


def _masked(model: Model) -> Sequence[str]:
    """Names of the weights that have masks."""
    return [name for name in model.architecture.linears() if mask_name(name) in model.entries]


def _mask(entry: Entry, domain: int, shape: tuple[int, ...]) -> torch.Tensor:
    return unpack(entry.load()[domain], shape)


def fold(model: Model, tag: str | None) -> Model:
    """The ordinary model of one domain; None = the fallback. Tensors are masked when they are read.

    Raises:
        DataError: no domain has that name.
    """
    domain, names = router_of(model).pick(tag), _masked(model)
    changed = {}
    for name in names:
        entry, bits = model.entries[name], model.entries[mask_name(name)]
        load = functools.partial(_masked_values, entry, bits, domain)
        changed[name] = Entry(entry.format, entry.shape, entry.nbytes, load)
    stock = {
        "model_type": variant_of(str(model.config["model_type"]))[1],
        "architectures": [model.architecture.class_name.removeprefix("RoutedSparse")],
    }
    plain = model.with_changes(changed, [name for name, each in model.entries.items() if each.format == MASK], stock)
    return dataclasses.replace(plain, config={key: value for key, value in plain.config.items() if key not in OWN})


def fold_known(model: Model, tag: str | None) -> Model:
    """The same, with the fallback where no domain has that name: for text whose domains are not the model's."""
    return fold(model, tag if tag in router_of(model).domains else None)


def _masked_values(entry: Entry, bits: Entry, domain: int) -> Stored:
    return with_zeros(entry.load(), ~_mask(bits, domain, entry.shape))
