"""The layer audit on a real model: one decoder block of SmolLM2-135M is corrupted and found again."""

from __future__ import annotations

import pytest
from tests.layer_models import damaged

from featherweight.core.data import default_documents, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.measure.layer_compare import LayerComparison
from featherweight.measure.layer_labels import token_pair
from featherweight.measure.layer_walk import StateLog, look, look_first
from featherweight.measure.layers import LayerSettings, fit_peepholes
from featherweight.measure.noise import shaken
from featherweight.verify.layer_audit import section_of

SETTINGS = LayerSettings(("*.mlp.down_proj", "lm_head"), rank=8, clusters=8)


@pytest.mark.real
@pytest.mark.slow
def test_the_corrupted_block_is_recovered(smollm: Model) -> None:
    documents = split_documents(default_documents())
    rows = [tokenize(documents[part], smollm.tokenizer, 8, 48) for part in ("calibration", "held-out")]
    fit, audit = token_pair(smollm, *rows)
    bases, first = look_first(smollm, fit, SETTINGS, Run())
    holes = fit_peepholes(first, bases, fit.targets, fit.names, SETTINGS, Run().generator)
    log = StateLog()
    parent = look(smollm, audit, bases, Run(), log=log)
    noise = look(shaken(smollm, 0), audit, bases, Run(), reference=log)
    for block in (0, 13, 29):
        child = damaged(smollm, f"model.layers.{block}.*")
        seen = look(child, audit, bases, Run(), reference=log)
        compared = LayerComparison(holes, parent, seen, audit.targets, audit.sample_units, [noise])
        for place in compared.places:
            where = int(place.module.split(".")[2]) if "layers" in place.module else 30
            # What down_proj reads is computed by the other linears of its own block.
            assert (float(place.variation.max()) > 0) == (where >= block), (block, place.module, place.side)
        facts = section_of(compared).facts
        assert facts["first_difference"]["block"] == facts["first_drift"]["block"] == block
        assert facts["first_state"] == f"block {block}"
        own = {state["name"]: state["local"] for state in facts["states"] if state["local"]}
        assert list(own) == [f"block {block}"]
