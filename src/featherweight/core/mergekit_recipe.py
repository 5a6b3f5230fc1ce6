"""Reads merge recipes in mergekit's YAML, for the methods that both know; what cannot be expressed is refused by name.

linear, task_arithmetic, ties, dare_linear and dare_ties with weight, density, normalize, lambda and rescale as plain
numbers, base_model, dtype and out_dtype. `base+adapter` names a LoRA folder on the base. `int8_mask` changes no result
and is passed over. Numbers are computed as everywhere here and rounded once: a recipe with `dtype: float32` gives
mergekit's tensors up to float32 rounding, one in bfloat16, which mergekit also computes in, gives less rounded ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from featherweight.core.errors import RecipeError
from featherweight.core.user_file import read_text

_SHARED = {"normalize": "normalize", "lambda": "lambda_", "rescale": "rescale"}
_OWN = ("weight", "density")
_NO_EFFECT = ("int8_mask",)
_KEYS = {"merge_method", "base_model", "models", "dtype", "out_dtype", "parameters", "tokenizer_source", "name"}


@dataclass(frozen=True)
class Method:
    """A method of ours for one of mergekit's, with the parameters that it takes there.

    Attributes:
        fields: that make ours the same.
        own: parameters of each model.
        shared: parameters of all.
    """

    name: str
    fields: Mapping[str, Any]
    own: tuple[str, ...]
    shared: tuple[str, ...]


_ARITHMETIC = ("normalize", "lambda", "rescale", "int8_mask")
METHODS = {
    "linear": Method("linear", {}, ("weight",), ("normalize",)),
    "task_arithmetic": Method("task-arithmetic", {}, ("weight", "density"), _ARITHMETIC),
    "ties": Method("ties", {}, ("weight", "density"), _ARITHMETIC),
    "dare_linear": Method("dare", {"variant": "linear"}, ("weight", "density"), _ARITHMETIC),
    "dare_ties": Method("dare", {"variant": "ties"}, ("weight", "density"), _ARITHMETIC),
}


@dataclass(frozen=True)
class MergekitRecipe:
    """A recipe in our terms: the base, the models, the technique and its fields."""

    base: str
    models: tuple[str, ...]
    method: str
    fields: Mapping[str, Any]


def read_mergekit(path: Path) -> MergekitRecipe:
    """A recipe file.

    Raises:
        RecipeError: it is no such recipe, or asks for something that cannot be expressed here.
        DataError: it is missing.
    """
    try:
        data = yaml.safe_load(read_text(path, str(path), "give the path of a mergekit recipe in YAML"))
    except yaml.YAMLError as error:
        raise RecipeError(str(path), f"is not valid YAML ({' '.join(str(error).split())})", "check it") from None
    if not isinstance(data, dict) or "merge_method" not in data:
        raise RecipeError(str(path), "has no merge_method", "give a mergekit recipe; featherweight apply runs ours")
    return _Reading(str(path), data).recipe()


class _Reading:
    """One recipe being read; errors name it."""

    def __init__(self, path: str, data: Mapping[str, Any]) -> None:
        self.path, self.data = path, data

    def recipe(self) -> MergekitRecipe:
        name = str(self.data["merge_method"])
        if name not in METHODS:
            raise RecipeError(
                f"{self.path}: merge_method {name}", "has no counterpart here",
                f"use one of {', '.join(METHODS)}, or run it in mergekit",
            )  # fmt: skip
        for key in self.data:
            if key not in _KEYS:
                raise self._refused(str(key), "cannot be expressed here")
        if self.data.get("tokenizer_source") not in (None, "base"):
            raise self._refused("tokenizer_source", "cannot be expressed: tokenizers are not merged")
        return self._of(METHODS[name])

    def _refused(self, what: str, why: str, mend: str = "leave it out, or run the recipe in mergekit") -> RecipeError:
        return RecipeError(f"{self.path}: {what}", why, mend)

    def _of(self, method: Method) -> MergekitRecipe:
        models = self._models()
        base = self.data.get("base_model")
        if base is None and method.name != "linear":
            raise self._refused("base_model", "is missing", "name the model that the others started from")
        base = str(models[0][0] if base is None else base)
        if method.name != "linear":  # there, the base among the models stands for nothing
            models = [each for each in models if each[0] != base]
        elif self.data.get("base_model") is not None and all(each[0] != base for each in models):
            raise self._refused("base_model", "has no weight, as linear gives every model one", "leave it out")
        fields = {**method.fields, **self._shared(method), **self._dtype()}
        for name in method.own:
            values = [self._own(method, name, model, given) for model, given in models]
            if (
                name != "density" or method.name != "task-arithmetic"
            ):  # mergekit takes it there and does nothing with it
                fields[name] = values
        return MergekitRecipe(base, tuple(_path(model, base, self) for model, _ in models), method.name, fields)

    def _models(self) -> list[tuple[str, Mapping[str, Any]]]:
        listed = self.data.get("models")
        if not isinstance(listed, list) or not listed:
            raise self._refused("models", "are missing: there is nothing to merge", "list at least one model")
        found = []
        for each in listed:
            if not isinstance(each, dict) or not isinstance(each.get("model"), str):
                raise self._refused(f"models: {each!r}", "names no model", "write `- model: NAME`")
            unknown = sorted(set(each) - {"model", "parameters"})
            if unknown:
                raise self._refused(f"models: {unknown[0]}", "cannot be expressed here")
            found.append((str(each["model"]), each.get("parameters") or {}))
        return found

    def _shared(self, method: Method) -> dict[str, Any]:
        given = self.data.get("parameters") or {}
        fields = {}
        for name, value in given.items():
            if name in method.own or name in _NO_EFFECT:
                continue
            if name not in method.shared:
                raise self._refused(f"parameters: {name}", f"is none of {method.name}")
            if name == "rescale" and method.name == "task-arithmetic":
                continue  # nothing is left out that others could be scaled up for
            fields[_SHARED[name]] = self._scalar(f"parameters: {name}", value, (bool,) if name != "lambda" else ())
        return fields

    def _own(self, method: Method, name: str, model: str, given: Mapping[str, Any]) -> float:
        unknown = sorted(set(given) - set(method.own))
        if unknown:
            raise self._refused(f"{model}: {unknown[0]}", f"is no parameter of a model in {method.name}")
        value = given.get(name, (self.data.get("parameters") or {}).get(name, 1.0 if name == "density" else None))
        if value is None:
            raise self._refused(f"{model}: {name}", "is missing", "give every model one, as mergekit wants it")
        return float(self._scalar(f"{model}: {name}", value, ()))

    def _scalar(self, what: str, value: Any, kinds: tuple[type, ...]) -> Any:
        """A plain value; lists are gradients over layers, or filters by module."""
        if isinstance(value, (list, dict)):
            raise self._refused(
                what, "changes over layers or modules, which cannot be expressed here", "give one value"
            )
        wanted = kinds or (int, float)
        if not isinstance(value, wanted) or (not kinds and isinstance(value, bool)):
            raise self._refused(f"{what} = {value!r}", f"is no {'truth value' if kinds else 'number'}", "correct it")
        return value

    def _dtype(self) -> dict[str, str]:
        name = self.data.get("out_dtype") or self.data.get("dtype")
        if name is None:
            return {}
        if name not in ("float32", "bfloat16", "float16"):
            raise self._refused(f"dtype {name}", "is no number type of a result", "use float32, bfloat16 or float16")
        return {"dtype": str(name)}


def _path(model: str, base: str, reading: _Reading) -> str:
    """`base+adapter` is the adapter."""
    start, plus, adapter = model.partition("+")
    if not plus or Path(model).exists():
        return model
    if start != base:
        raise reading._refused(f"models: {model}", "puts an adapter on another model than the base")
    return adapter
