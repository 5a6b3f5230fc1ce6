"""What a workload recommends."""

from __future__ import annotations

import dataclasses

from featherweight.measure.manifold import Manifold
from featherweight.measure.workload import VocabularyUse, Workload, context_use
from featherweight.plan.component import context_for, recommend

LENGTHS = [4] * 90 + [10] * 9 + [30]
FOUND = Workload(
    prompts=100, distinct=90, mean=4.8, median=4, most_use=10, longest=30,
    contexts=tuple(context_use(LENGTHS, context) for context in (4, 8, 12, 32, 77)),
    vocabulary=VocabularyUse(49408, 900, 900 / 49408, 0.01), positions=None,
    outputs=Manifold(4000, 256, 12.0, 15.0, 100), parameters=1000, table_parameters=600,
)  # fmt: skip


def test_the_shortest_context_that_cuts_few_enough() -> None:
    assert recommend(FOUND).context == 12  # cuts one of a hundred
    assert recommend(FOUND, truncated=0).context == 32
    assert recommend(FOUND, truncated=0.5).context == 4
    assert context_for([context_use([90], 77), context_use([90], 12)]).context == 77


def test_width_and_vocabulary_with_their_reasons() -> None:
    found = recommend(FOUND)
    assert (found.width, found.vocabulary) == (128, 900)
    assert "60%" in found.reasons[1]
    assert "bounds no encoder" in found.reasons[2]
    assert recommend(dataclasses.replace(FOUND, outputs=None)).width is None
    everything = dataclasses.replace(FOUND, vocabulary=VocabularyUse(1000, 900, 0.9, 0.0))
    assert recommend(everything).vocabulary is None
