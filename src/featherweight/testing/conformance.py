"""The conformance suite: what every technique must do, ours and third parties'.

from featherweight.testing import check_technique
check_technique(MyTechnique)
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path

from featherweight.core.checkpoint import values
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import Kind, Need, Technique, build, techniques
from featherweight.testing.tiny import tiny_model, tiny_run


def check_technique(cls: type[Technique], setting: Technique | None = None, model_type: str = "llama") -> None:
    """Runs every check on a technique; raises AssertionError with a sentence that says what it broke.

    Args:
        cls: the technique's class, decorated with `@technique`.
        setting: an instance that should change the model; None = the defaults.
        model_type: architecture of the tiny model that it is tried on.
    """
    setting = setting or cls()
    _check_declaration(cls)
    _check_fields(cls, setting)
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_model(Path(folder), model_type, num_hidden_layers=3)
        model = open_folder(path)
        parent = open_folder(tiny_model(Path(folder), model_type, seed=1, num_hidden_layers=3))
        run, again = (dataclasses.replace(tiny_run(path), parent=parent) for _ in range(2))
        _check_neutral(cls, model, run)
        _check_apply(setting, model, run, again)
        _check_needs(setting, model)


def _check_declaration(cls: type[Technique]) -> None:
    assert issubclass(cls, Technique), f"{cls.__name__} does not derive from Technique"
    assert techniques().get(cls.name) is cls, f"{cls.__name__} is not registered: decorate it with @technique"
    assert isinstance(getattr(cls, "kind", None), Kind), f"{cls.name} declares no kind"
    assert getattr(cls, "paper", None) is not None, f"{cls.name} names no paper"
    assert cls.summary().endswith("."), f"the first docstring line of {cls.name} is not a sentence"
    for field, facts in cls.model_fields.items():
        assert facts.description, f"the field {field} of {cls.name} has no description"


def _check_fields(cls: type[Technique], setting: Technique) -> None:
    assert build(cls.name, setting.fields()) == setting, f"{cls.name} does not rebuild from its own fields"
    recipe = Recipe((setting,))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe, f"{cls.name} does not survive YAML"


def _check_neutral(cls: type[Technique], model: Model, run: Run) -> None:
    neutral = cls.neutral()
    assert isinstance(neutral, cls), f"{cls.name}.neutral() is no {cls.name}"
    if cls.neutral_means != Technique.neutral_means:
        return  # equals a named baseline instead; that has a test of its own
    result = neutral.apply(model, run)
    assert result.fingerprint == model.fingerprint, f"{cls.name}.neutral() changes the model"


def _check_apply(setting: Technique, model: Model, run: Run, again: Run) -> None:
    before = model.fingerprint
    kept = {name: entry.digest for name, entry in model.entries.items()}
    result = setting.apply(model, run)
    assert model.fingerprint == before, f"{setting.name} changed the model that it was given"
    assert kept == {name: entry.digest for name, entry in model.entries.items()}, f"{setting.name} wrote into its input"
    assert setting.apply(model, again).fingerprint == result.fingerprint, (
        f"{setting.name} gives two results for one seed"
    )
    for name in result.entries:
        total = float(values(result.stored(name)).double().abs().sum())
        assert math.isfinite(total), f"{setting.name} left NaN or infinite values in {name}"
    _check_loads(setting, result)


def _check_loads(setting: Technique, result: Model) -> None:
    """The result can be written, read back equal, and run."""
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "saved")
        reread = open_folder(Path(folder) / "saved")
        assert reread.fingerprint == result.fingerprint, f"{setting.name}: the saved result is another model"
        logits = reread.module()(reread.tokenizer("A model.", return_tensors="pt")["input_ids"]).logits
        assert bool(logits.isfinite().all()), f"{setting.name}: the result computes NaN"


def _check_needs(setting: Technique, model: Model) -> None:
    """What a technique says that it cannot work without, it asks for."""
    from featherweight.core.errors import FeatherweightError

    for need, run in ((Need.CALIBRATION, Run()), (Need.PARENT, tiny_run(model.folder))):
        if need in setting.needs:
            try:
                setting.apply(model, run)
            except FeatherweightError:
                continue
            raise AssertionError(f"{setting.name} says that it needs {need}, yet works without")
