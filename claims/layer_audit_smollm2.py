"""The layer audit on SmolLM2-135M. `python -m claims.layer_audit_smollm2`.

Children: weights rounded to 8, 4 and 3 bits, pruned by Wanda and by magnitude, and one with another draw of bf16 noise.
Labels are kinds of the next token. Asked is

- whether drift ranks children as the divergence KL(parent || child) on the same text does,
- whether what the audit says of single blocks (drift added, own error, drift of peepholes) ranks them as putting them
  back does (restoration, the causal measure): Spearman's correlation over 30 blocks, bootstrap over blocks,
- whether one block rounded to 2 bits is found,
- whether noise is taken for drift,
- whether conformity tells right predictions of the next token's kind from wrong ones as well as their probability does.

A seed is a sample of the text that is fitted on and of the text that is looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.stats import spearmanr

from claims.experiment import SEEDS, Experiment, reordered
from claims.layer_audit import exact
from claims.reliability import Reliability
from featherweight.core.data import TokenSet, tokenize
from featherweight.core.model import Model
from featherweight.core.quantizer import KEEP
from featherweight.core.run import Run
from featherweight.measure.conformity import conformity
from featherweight.measure.layer_compare import LayerComparison
from featherweight.measure.layer_labels import token_pair
from featherweight.measure.layer_walk import StateLog, block_name, look, look_first
from featherweight.measure.layers import LayerSettings, Peepholes, Seen, fit_peepholes
from featherweight.measure.noise import shaken
from featherweight.measure.probe_rows import ProbeRows
from featherweight.measure.quality import compare
from featherweight.measure.restoration import restoration
from featherweight.techniques.prune.magnitude import Magnitude
from featherweight.techniques.prune.wanda import Wanda
from featherweight.techniques.quantize.rtn import Rtn
from featherweight.verify.layer_audit import section_of

CLAIM = (
    "Comparing conceptograms and hidden states of parent and child says where a compressed language model was damaged, "
    "and how much (after arXiv 2604.08424)."
)
SETTINGS = LayerSettings()
AUDIT_ROWS, LENGTH = 12, 128
RESTORED = ("4 bits", "3 bits", "wanda 50 %")
CORRUPTED = ((0, 11, 29), (4, 17, 26), (8, 20, 24))
PREDICTORS = ("added drift of states", "own error", "drift of peepholes", "added drift of peepholes")
_RESAMPLES = 1000


class Audit:
    """A parent fitted on a seed's text, ready to be compared with any child."""

    def __init__(self, parent: Model, fit: TokenSet, audit: TokenSet, seed: int) -> None:
        self.parent, self.tokens, self.run = parent, audit, Run(seed=seed, calibration=fit)
        rows = token_pair(parent, fit, audit)
        self.rows: ProbeRows = rows[1]
        self.bases, first = look_first(parent, rows[0], SETTINGS, self.run)
        self.holes: Peepholes = fit_peepholes(
            first, self.bases, rows[0].targets, rows[0].names, SETTINGS, self.run.generator
        )
        self.log = StateLog()
        self.seen = look(parent, self.rows, self.bases, self.run, log=self.log)
        self.noise = [self._look(shaken(parent, 100 + draw)) for draw in range(2)]

    def _look(self, child: Model) -> Seen:
        return look(child, self.rows, self.bases, self.run, reference=self.log)

    def compared(self, child: Model) -> LayerComparison:
        """A child against the parent."""
        units = self.rows.sample_units
        return LayerComparison(self.holes, self.seen, self._look(child), self.rows.targets, units, self.noise)


def children(parent: Model, run: Run) -> dict[str, Model]:
    """Compressed models by name."""
    techniques = {
        "8 bits": Rtn(format="int8-g64"), "4 bits": Rtn(format="int4-g64"), "3 bits": Rtn(format="int3-g64"),
        "wanda 50 %": Wanda(sparsity=0.5), "magnitude 30 %": Magnitude(sparsity=0.3),
    }  # fmt: skip
    return {"bf16 noise": shaken(parent, 7), **{name: each.apply(parent, run) for name, each in techniques.items()}}


def corrupted(parent: Model, block: int) -> Model:
    """The parent with one block rounded to 2 bits."""
    return Rtn(format=KEEP, overrides={f"model.layers.{block}.*": "int2-g32"}).apply(parent, Run())


def by_block(facts: Mapping[str, Any], blocks: int) -> dict[str, list[float]]:
    """What the audit says of every block, by predictor."""
    states = {state["name"]: state for state in facts["states"]}
    peepholes = [
        sum(row["drift"] for row in facts["rows"] if row["block"] == block)
        / sum(row["block"] == block for row in facts["rows"])
        for block in range(blocks)
    ]
    return {
        "added drift of states": [states[block_name(block)]["added"] for block in range(blocks)],
        "own error": [states[block_name(block)]["local"] for block in range(blocks)],
        "drift of peepholes": peepholes,
        "added drift of peepholes": [b - a for a, b in itertools.pairwise([0.0, *peepholes])],
    }


def ranks_blocks(name: str, predictor: str, pairs: Sequence[tuple[list[float], list[float]]]) -> dict[str, Any]:
    """Whether a predictor ranks blocks as restoring them does, over seeds; bootstrap over blocks."""
    by_seed = [float(spearmanr(*pair).statistic) for pair in pairs]
    count = len(pairs[0][0])
    draws = torch.randint(count, (_RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    resampled = torch.zeros(_RESAMPLES, dtype=torch.float64)
    for one, other in pairs:
        first, second = torch.tensor(one)[draws].numpy(), torch.tensor(other)[draws].numpy()
        resampled += torch.tensor([spearmanr(*pair).statistic for pair in zip(first, second, strict=True)]) / len(pairs)
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    sure = low > 0 and min(by_seed) > 0
    return {
        "statement": f"{name}: {predictor} ranks blocks as restoring them does",
        "difference": round(sum(by_seed) / len(by_seed), 4), "interval": [round(low, 4), round(high, 4)],
        "outcome": "holds" if sure else "contradicted" if high < 0 else "undecided", "unit": "Spearman's correlation",
    }  # fmt: skip


def discordant(one: Sequence[float], other: Sequence[float]) -> int:
    """Pairs that two lists put in another order."""
    pairs = itertools.combinations(zip(one, other, strict=True), 2)
    return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs)


def note_reliability(result: Reliability, name: str, audit: Audit, compared: LayerComparison) -> None:
    """Adds how well scores tell right predictions of the next token's kind from wrong ones."""
    says = audit.holes.predicted(compared.child)
    scores = {
        "conformity": conformity(audit.holes.conceptograms(compared.child), says.labels, audit.holes.protos),
        "probability of the kind": says.confidence,
    }
    _, documents = torch.unique(compared.units, return_inverse=True)
    result.add(name, scores, says.labels == compared.targets, documents)


def of_seed(experiment: Experiment, seed: int, reliability: Reliability) -> dict[str, Any]:
    """Everything that is measured with one sample of text."""
    documents = {name: reordered(texts, seed) for name, texts in experiment.documents["held-out"].items()}
    looked = tokenize(documents, experiment.model.tokenizer, AUDIT_ROWS, LENGTH)
    audit = Audit(experiment.model, experiment.calibration(seed), looked, seed)
    found: dict[str, Any] = {"children": {}, "corrupted": {}}
    for name, child in children(audit.parent, audit.run).items():
        compared = audit.compared(child)
        facts = section_of(compared, parameters=audit.parent.parameters).facts
        divergence = float(compare(audit.parent, child, looked, audit.run).kl.mean())
        found["children"][name] = summary(facts, divergence)
        found["cost"] = facts["cost"]
        if name in RESTORED:
            restored = restoration(audit.parent, child, audit.rows.some(1024), audit.run)
            gains = {layer: gain.mean for layer, gain in restored.gains().items()}
            found["children"][name] |= {"gains": gains, "blocks": by_block(facts, audit.parent.architecture.blocks)}
        if name in ("bf16 noise", *RESTORED):
            note_reliability(reliability, "the parent" if name == "bf16 noise" else name, audit, compared)
        print(f"seed {seed} {name}: {found['children'][name]['summary']}", flush=True)
    for block in CORRUPTED[seed]:
        facts = section_of(audit.compared(corrupted(audit.parent, block))).facts
        found["corrupted"][block] = [
            facts["first_difference"]["block"], facts["first_drift"]["block"], facts["first_state"],
            facts["most"]["name"],
        ]  # fmt: skip
        print(f"seed {seed} block {block}: {found['corrupted'][block]}", flush=True)
    return found


def summary(facts: Mapping[str, Any], divergence: float) -> dict[str, Any]:
    """Of a child: mean drift, where it begins and what adds most."""
    rows, states = facts["rows"], facts["states"]
    return {
        "divergence": divergence,
        "drift": sum(row["drift"] for row in rows) / len(rows),
        "noise": sum(row["noise"] for row in rows) / len(rows),
        "relative": next(state["relative"] for state in states if state["name"] == "final norm"),
        "summary": {
            "divergence": round(divergence, 4),
            "first_drift": None if facts["first_drift"] is None else facts["first_drift"]["module"],
            "first_state": facts["first_state"],
            "most": None if facts["most"] is None else facts["most"]["name"],
            "conformity": facts["conformity"]["child"],
        },
    }


def main() -> str:
    experiment, reliability = Experiment("layer-audit-smollm2", CLAIM, "nats per token"), Reliability()
    seeds = [of_seed(experiment, seed, reliability) for seed in SEEDS]
    names = list(seeds[0]["children"])
    out_of_order = {
        key: sum(
            discordant(*([each["children"][name][value] for name in names] for value in (key, "divergence")))
            for each in seeds
        )
        for key in ("drift", "relative")
    }
    pairs = len(seeds) * len(names) * (len(names) - 1) // 2
    cases = [(block, *found) for each in seeds for block, found in each["corrupted"].items()]
    alarms = sum(each["children"]["bf16 noise"]["summary"]["first_drift"] is not None for each in seeds)
    statements = [
        exact("drift of peepholes ranks two children as divergence does", out_of_order["drift"], pairs),
        exact("error of the final states ranks two children as divergence does", out_of_order["relative"], pairs),
        exact("a block rounded to 2 bits is where the first difference and the first drift are",
              sum((block, block, block_name(block)) != tuple(found[:3]) for block, *found in cases), len(cases)),
        exact("bf16 noise is taken for drift in no layer", alarms, len(seeds)),
        *(
            ranks_blocks(name, predictor, [
                (each["children"][name]["blocks"][predictor], _block_gains(each["children"][name]["gains"]))
                for each in seeds
            ])
            for name in RESTORED for predictor in PREDICTORS
        ),
        *(
            reliability.judged(setting, "conformity", "probability of the kind")
            for setting in ("the parent", *RESTORED)
        ),
    ]  # fmt: skip
    return experiment.conclude([], facts_of(seeds, names, reliability, cases), statements)


def _block_gains(gains: Mapping[str, float]) -> list[float]:
    return [gain for layer, gain in gains.items() if layer.startswith("block")]


def facts_of(seeds: Sequence[Any], names: Sequence[str], reliability: Reliability, cases: Sequence[Any]) -> Any:
    """What else the record says."""

    def mean(name: str, key: str) -> float:
        return round(sum(each["children"][name][key] for each in seeds) / len(seeds), 4)

    def best(gains: Mapping[str, float]) -> list[Any]:
        layer = max(gains, key=lambda each: gains[each])
        return [layer, round(gains[layer], 4), round(sum(gains.values()), 4)]

    return {
        "calibration": f"24 rows of {LENGTH} tokens, seeds {list(SEEDS)}, 32 directions, 20 clusters of a mixture",
        "evaluation": f"{AUDIT_ROWS} held-out rows of {LENGTH} tokens, others each seed",
        "children": {
            name: {
                **{key: mean(name, key) for key in ("divergence", "drift", "noise", "relative")},
                "by_seed": [each["children"][name]["summary"] for each in seeds],
            }
            for name in names
        },
        "restoring": {
            "what": "the layer whose restoration brings most, its gain, and the sum of all layers' gains, by seed",
            **{name: [best(each["children"][name]["gains"]) for each in seeds] for name in RESTORED},
        },
        "corrupted": [list(case) for case in cases],
        "auroc": reliability.table(),
        "cost": seeds[0]["cost"],
        "nll": {},
    }


if __name__ == "__main__":
    main()
