"""Adapters are put on without warnings that nobody who runs us can act on."""

from __future__ import annotations

import warnings
from pathlib import Path

import peft

from featherweight.core.attach import without_renamings
from featherweight.core.source import open_folder
from featherweight.techniques.adapt.lora import Lora
from featherweight.train.memory_facts import trained_parameters


def test_a_plan_warns_of_nothing(tiny: Path) -> None:
    model = open_folder(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trained_parameters(model, Lora(rank=2)) > 0
        with without_renamings():
            peft.get_peft_model(model.skeleton(), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))


def test_other_warnings_are_kept() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with without_renamings():
            warnings.warn("a renamed name", FutureWarning, stacklevel=1)
            warnings.warn("a real one", UserWarning, stacklevel=1)
    assert [str(each.message) for each in seen] == ["a real one"]
