"""Optimizers by name: facts about those of torch and of three packages, and one way to build any of them.

The facts are in `optimizers.toml`. Every tensor has a role: "matrix" (2-D, inside the network), "embedding" (tables of
tokens, and the head), "vector" (norms, biases) or "tensor" (convolutions). Roles decide what an optimizer gets: Muon
takes matrices and leaves the rest to AdamW, GaLore and APOLLO project matrices only, weight decay spares vectors. With
AdamW and no decay the result is `torch.optim.AdamW` bit for bit.

It knows no data and measures nothing. "Navigating LLM Valley: From AdamW to Memory-Efficient and Matrix-Based
Optimizers", arXiv 2605.09176, has no algorithm of its own: it asks for such a table and for fair comparisons.
"""

from __future__ import annotations

import functools
import importlib
import math
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from featherweight.core.errors import MissingExtra, RecipeError, nearest
from featherweight.core.lazy import torch

Role = Literal["matrix", "embedding", "vector", "tensor"]
BASELINE = "adamw"
"""What everything is compared with, and what takes the tensors that another optimizer does not."""

_PACKAGES = {"lion_pytorch": "lion-pytorch", "galore_torch": "galore-torch", "apollo_torch": "apollo-torch"}
_EMBEDDINGS = {
    "embed_tokens", "embed_positions", "wte", "wpe", "word_embeddings", "position_embeddings", "embed_in", "embed_out",
    "embedding", "embeddings", "lm_head", "head", "output", "shared",
}  # fmt: skip


@dataclass(frozen=True)
class Optimizer:
    """What is known of an optimizer before it runs; `optimizers.toml` says what each field means."""

    name: str
    class_path: str
    title: str
    arxiv: str
    state: str
    learning_rate: float
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Any] = field(default_factory=dict)
    matrices_only: bool = False
    extra: bool = False
    plain_state: bool = True
    needs: str = ""

    @property
    def package(self) -> str:
        """What to install for it."""
        module = self.class_path.split(":")[0].split(".")[0]
        return _PACKAGES.get(module, module)

    def load(self) -> Any:
        """The class.

        Raises:
            MissingExtra: its package is not installed, or too old.
        """
        module, _, attribute = self.class_path.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            extra = "optimizers" if self.extra else None
            raise MissingExtra(f"optimizer {self.name!r}", self.needs or self.package, extra) from None


@functools.cache
def optimizers() -> dict[str, Optimizer]:
    """Every optimizer by name."""
    text = resources.files("featherweight.train").joinpath("optimizers.toml").read_text(encoding="utf-8")
    found = {}
    for name, facts in tomllib.loads(text).items():
        found[name] = Optimizer(name=name, class_path=facts.pop("class"), **facts)
    return found


def find_optimizer(name: str) -> Optimizer:
    """The facts about one; underscores count as hyphens.

    Raises:
        RecipeError: there is none of that name; the nearest are suggested.
    """
    known = optimizers()
    found = known.get(name.lower().replace("_", "-"))
    if found is None:
        raise RecipeError(f"optimizer {name!r}", "is unknown", nearest(name, known) or f"use one of {', '.join(known)}")
    return found


def installed() -> list[str]:
    """Names of those whose class can be imported here."""
    usable = []
    for name, facts in optimizers().items():
        try:
            facts.load()
        except MissingExtra:
            continue
        usable.append(name)
    return usable


def role_of(name: str, shape: Collection[int], embeddings: Collection[str] | None = None) -> Role:
    """What a tensor is to an optimizer.

    Args:
        name: its dotted name; the module that holds it says whether it is an embedding or a head.
        shape: of the tensor.
        embeddings: names of embeddings and heads, where they are known; None = by the usual names.
    """
    if len(shape) < 2:
        return "vector"
    holder = name.split(".")[-2] if "." in name else name
    if name in embeddings if embeddings is not None else holder in _EMBEDDINGS:
        return "embedding"
    return "matrix" if len(shape) == 2 else "tensor"


def embeddings_of(module: torch.nn.Module) -> frozenset[str]:
    """Names of the parameters of a module's tables of embeddings and of its output head."""
    find: Any = getattr(module, "get_output_embeddings", lambda: None)
    head = find()
    tables = [each for each in module.modules() if isinstance(each, torch.nn.Embedding) or each is head]
    held = {id(parameter) for table in tables for parameter in table.parameters()}
    return frozenset(name for name, parameter in module.named_parameters() if id(parameter) in held)


def build_optimizer(
    name: str,
    named_parameters: Iterable[tuple[str, torch.Tensor]],
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    embeddings: Collection[str] | None = None,
    factors: Mapping[str, float] | None = None,
    **options: Any,
) -> torch.optim.Optimizer:
    """An optimizer over some tensors, for `train.loop.minimise`.

    Args:
        name: one of `optimizers()`.
        named_parameters: what it moves.
        learning_rate: None = where a search would start; `minimise` sets it at each step.
        weight_decay: of all but vectors; decoupled, except for the two kinds of SGD.
        embeddings: names of embeddings and heads; None = by the usual names.
        factors: what the rate of a tensor is multiplied by, by name; 1 where it is missing.
        options: beyond the defaults of the table, such as betas, or rank.

    Raises:
        RecipeError: no such optimizer, an option that it does not have, or nothing to train.
        MissingExtra: its package is not installed.
    """
    facts = find_optimizer(name)
    cls, rate = facts.load(), facts.learning_rate if learning_rate is None else learning_rate
    groups = _groups(facts, list(named_parameters), weight_decay, embeddings, factors or {}, options)
    constructor = {**facts.options, **{key: each for key, each in options.items() if key not in facts.groups}}
    if facts.matrices_only:
        return _with_baseline(facts, cls, groups, rate, constructor)
    return _settled(facts, _made(facts, cls, groups, rate, constructor))


def _groups(
    facts: Optimizer, named: list[tuple[str, torch.Tensor]], weight_decay: float, embeddings: Collection[str] | None,
    factors: Mapping[str, float], options: Mapping[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """Groups of one role, factor and rank each, in the order in which they first occur."""
    if not named:
        raise RecipeError(f"optimizer {facts.name!r}", "has no tensors to train", "unfreeze some, or widen the targets")
    projection = {key: options.get(key, each) for key, each in facts.groups.items()}
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in named:
        parameter.requires_grad_(True)  # as `minimise` will; APOLLO passes over those that do not yet
        role, factor = role_of(name, parameter.shape, embeddings), factors.get(name, 1.0)
        rank = min(projection["rank"], *parameter.shape) if projection and role == "matrix" else 0
        if (role, factor, rank) not in groups:
            groups[role, factor, rank] = {
                "params": [], "role": role, "factor": factor, "weight_decay": 0.0 if role == "vector" else weight_decay,
                **({**projection, "rank": rank} if rank else {}),
            }  # fmt: skip
        groups[role, factor, rank]["params"].append(parameter)
    return list(groups.values())


def _made(facts: Optimizer, cls: Any, groups: list[dict[str, Any]], rate: float, options: Mapping[str, Any]) -> Any:
    try:
        return cls(groups, lr=rate, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise RecipeError(
            f"optimizer {facts.name!r} with {dict(options)}", f"is refused ({error})", "see `train/optimizers.toml`"
        ) from None


def _with_baseline(
    facts: Optimizer, cls: Any, groups: list[dict[str, Any]], rate: float, options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Matrices to the optimizer, everything else to AdamW; one of the two alone where that is all."""
    from featherweight.train.together import Together

    own = [group for group in groups if group["role"] == "matrix"]
    other = [group for group in groups if group["role"] != "matrix"]
    parts = [_made(facts, cls, own, rate, options)] if own else []
    return Together([*parts, *([torch.optim.AdamW(other, lr=rate)] if other else [])])


def _settled(facts: Optimizer, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """torchao wants rates as tensors, and `minimise` sets numbers."""
    if facts.package == "torchao":
        optimizer.register_step_pre_hook(_rates_as_tensors)
    return optimizer


def _rates_as_tensors(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], torch.Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32)


def spread(learning_rate: float, points: int, factor: float) -> list[float]:
    """Rates around one, evenly spaced in the logarithm.

    >>> [round(each, 3) for each in spread(0.1, 3, 10.0)]
    [0.01, 0.1, 1.0]
    """
    middle = (points - 1) / 2
    return [learning_rate * math.exp((index - middle) * math.log(factor)) for index in range(points)]
