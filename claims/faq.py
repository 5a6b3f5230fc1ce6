"""Calibration text by a sibling, an outsider, the model itself, or as it is. `python -m claims.faq`.

Toys: the target (width 64) and its senior (width 128) read the same prose; the outsider (width 128, the same tokenizer)
read source code. The target is rounded to 3 bits, groups of 64, by GPTQ on equally many tokens of each kind of text.
What counts is the loss above the unrounded target on text that the target wrote itself at temperature 1, where that
gap estimates its KL divergence. A seed is a sample of calibration text with all draws; the models are trained once.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from claims.experiment import Experiment, Statement, reordered, row_losses
from claims.toys import toy
from featherweight.core.data import TokenSet, default_documents, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.regenerate import Manner, regenerate
from featherweight.core.run import Run
from featherweight.core.sampling import Draw
from featherweight.core.writers import LocalWriter
from featherweight.measure.activations import activation_distance, channel_sizes
from featherweight.measure.experts import likelihood, rules
from featherweight.techniques.quantize.gptq import Gptq

CLAIM = (
    "Calibrating on text that a larger model of the same family wrote cuts the damage of rounding by at least a tenth, "
    "compared with the text as it is, and is better than text of a model of another family (arXiv 2601.11200)."
)
SEEDS = (0, 1, 2, 3, 4)
ROWS, LENGTH, EVALUATION_ROWS = 16, 96, 32
LEAST, OF_SEEDS = 0.1, 4
KINDS = ("raw", "outsider", "family", "self")


def main() -> str:
    experiment = Experiment("faq", CLAIM)
    text = split_documents(default_documents())
    with tempfile.TemporaryDirectory() as folder:
        prose, code = ({domain: text["calibration"][domain]} for domain in ("prose", "code"))
        target = toy(Path(folder), prose, 64, 400, blocks=2)
        senior = toy(Path(folder), prose, 128, 400, seed=1, blocks=2)
        outsider = toy(Path(folder), code, 128, 400, seed=2, blocks=2)
        writers = {name: LocalWriter(each, name) for name, each in zip(
            ("outsider", "family", "self"), (outsider, senior, target), strict=True
        )}  # fmt: skip
        natural = tokenize({"prose": text["held-out"]["prose"]}, target.tokenizer, EVALUATION_ROWS, LENGTH)
        own = written(target, natural, Manner(candidates=1, draw=Draw(), stream="evaluation"), Run())
        facts = measure(experiment, target, writers, text["selection"]["prose"], own, natural)
    found = [fewer(experiment), closer(facts["activation_distance"])]
    statements = [Statement("family", "raw"), Statement("family", "outsider")]
    return experiment.conclude(statements, facts, found)


def written(target: Model, tokens: TokenSet, manner: Manner, run: Run) -> TokenSet:
    """Rows that the target wrote, one candidate each."""
    return regenerate(tokens, target.tokenizer, LocalWriter(target, "self"), rules(), manner, run).tokens


def measure(
    experiment: Experiment, target: Model, writers: Mapping[str, LocalWriter], prose: Sequence[str],
    own: TokenSet, natural: TokenSet,
) -> dict[str, Any]:  # fmt: skip
    """Losses of all kinds of calibration text and seeds on the target's own text, with what else there is to say."""
    reference = channel_sizes(target, own, Run())
    distances: dict[str, list[float]] = {kind: [] for kind in KINDS}
    on_natural: dict[str, list[float]] = {"parent": [float(row_losses(target, natural.ids).mean())]}
    parent = row_losses(target, own.ids)
    experiment.losses["parent"] = [parent.tolist()]
    for seed in SEEDS:
        run = Run(seed=seed)
        raw = tokenize({"prose": reordered(prose, seed)}, target.tokenizer, ROWS, LENGTH)
        for kind in KINDS:
            tokens = raw
            if kind != "raw":
                expert = likelihood(target, run)
                tokens = regenerate(raw, target.tokenizer, writers[kind], expert, Manner(), run).tokens
            assert tokens.count == raw.count
            rounded = Gptq(format="int3-g64").apply(target, dataclasses.replace(run, calibration=tokens))
            experiment.losses.setdefault(kind, []).append(row_losses(rounded, own.ids).tolist())
            on_natural.setdefault(kind, []).append(round(float(row_losses(rounded, natural.ids).mean()), 4))
            apart = activation_distance(channel_sizes(target, tokens, run), reference)
            distances[kind].append(round(sum(apart) / len(apart), 6))
            gap = torch.tensor(experiment.losses[kind][-1]).mean() - parent.mean()
            print(f"seed {seed}  {kind:9s} gap {gap:.4f}  distance {distances[kind][-1]:.5f}", flush=True)
    return {
        "model": "toys of 2 blocks: target of width 64, senior and outsider of width 128",
        "calibration": f"{ROWS} rows of {LENGTH} tokens of each kind, seeds {list(SEEDS)}",
        "evaluation": f"{EVALUATION_ROWS} rows of {LENGTH} tokens that the unrounded target wrote at temperature 1",
        "gap": gaps(experiment),
        "activation_distance": distances,
        "nll_on_natural_text": on_natural,
    }


def gaps(experiment: Experiment) -> dict[str, list[float]]:
    """Mean loss above the unrounded target, by kind of text, one a seed."""
    losses = {name: torch.tensor(rows, dtype=torch.float64).mean(1) for name, rows in experiment.losses.items()}
    return {kind: [round(float(each - losses["parent"][0]), 5) for each in losses[kind]] for kind in KINDS}


def fewer(experiment: Experiment) -> dict[str, Any]:
    """Whether the family's gap is at least a tenth smaller than that of the raw text in four of five seeds."""
    found = gaps(experiment)
    shares = [1 - family / raw for family, raw in zip(found["family"], found["raw"], strict=True)]
    count = sum(share >= LEAST for share in shares)
    return {
        "statement": f"the family's gap is at least {LEAST:.0%} smaller than raw's in {OF_SEEDS} of {len(SEEDS)} seeds",
        "difference": round(-sum(shares) / len(shares), 4),
        "interval": [round(-max(shares), 4), round(-min(shares), 4)],
        "outcome": "holds" if count >= OF_SEEDS else "undecided" if count else "contradicted",
    }


def closer(distances: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Whether the family's text is nearer to the target's own, in what its linears read, in every seed."""
    found = [family - raw for family, raw in zip(distances["family"], distances["raw"], strict=True)]
    return {
        "statement": "the family's text has a smaller activation distance to the target's own than raw text",
        "difference": round(sum(found) / len(found), 6),
        "interval": [min(found), max(found)],
        "outcome": "holds" if max(found) < 0 else "contradicted" if min(found) > 0 else "undecided",
    }


if __name__ == "__main__":
    main()
