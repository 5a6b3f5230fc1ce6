"""Candidates: what they promise holds once they are applied, in both orders of cutting and rounding."""

from __future__ import annotations

from pathlib import Path

import pytest

from featherweight.core.precision import RUNTIME_FORMATS
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.steps import apply_recipe
from featherweight.export.exporters import exporter
from featherweight.measure.removal import removals
from featherweight.measure.sensitivity import sensitivities
from featherweight.plan.candidates import Cut, Prior, candidates, expect, rounded_first, smallest
from featherweight.testing import tiny_model, tiny_run

CUTS = (Cut(), Cut(drop=1), Cut(ffn=0.75))


@pytest.fixture(scope="module")
def case(models_folder: Path) -> tuple[Prior, Run, int]:
    """A prior of a three-block model, its run, and bytes at which everything must be rounded hard."""
    path = tiny_model(models_folder, num_hidden_layers=3)
    model, run = open_folder(path), tiny_run(path)
    tokens = run.tokens("test")
    tables = sensitivities(model, tokens, RUNTIME_FORMATS["gguf"], run, ("feedback", "nearest"))
    writer = exporter("gguf")
    plain = dict.fromkeys(model.architecture.quantizable(), "BF16")
    overhead = writer.file_bytes(model, plain) - model.bf16_bytes() + 32 * len(model.entries)
    prior = Prior(model, tables, removals(model, tokens, [0.75], run), overhead, "gguf")
    return prior, run, int(overhead + 0.4 * model.bf16_bytes())


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_candidate_fits_its_bytes(case: tuple[Prior, Run, int], cut: Cut) -> None:
    prior, run, memory = case
    candidate = expect(prior, memory, cut, "gptq")
    assert candidate is not None
    made = apply_recipe(candidate.recipe, prior.model, run, None)[-1].model
    assert exporter("gguf").file_bytes(made) <= memory


@pytest.mark.parametrize("cut", CUTS[1:], ids=str)
def test_rounding_first_fits_the_same_bytes(case: tuple[Prior, Run, int], cut: Cut) -> None:
    prior, run, memory = case
    candidate = expect(prior, memory, cut, "gptq")
    assert candidate is not None
    turned = rounded_first(prior, candidate)
    assert [step.name for step in turned.recipe][-1] == candidate.recipe.steps[0].name
    made = apply_recipe(turned.recipe, prior.model, run, None)[-1].model
    assert exporter("gguf").file_bytes(made) <= memory
    assert made.parameters == apply_recipe(candidate.recipe, prior.model, run, None)[-1].model.parameters


def test_less_memory_never_promises_more(case: tuple[Prior, Run, int]) -> None:
    prior, _, memory = case
    least = smallest(prior, CUTS)
    sizes = range(least, memory, (memory - least) // 6)
    promised = [min(each.kl for each in candidates(prior, [size], CUTS, ["gptq"])) for size in sizes]
    assert promised == sorted(promised, reverse=True)


def test_below_the_smallest_there_is_nothing(case: tuple[Prior, Run, int]) -> None:
    prior = case[0]
    assert candidates(prior, [smallest(prior, CUTS) - 1], CUTS) == []
