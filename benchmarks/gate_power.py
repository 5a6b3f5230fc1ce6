"""The safety gate on simulated pairs of models whose true loss is known. `python benchmarks/gate_power.py`.

    python benchmarks/gate_power.py --pairs 200       # what 200 pairs show; the result is not kept

A pair is two models' labels on N cases: the parent refuses 95 % of them, the child loses and gains refusals at true
rates, independently or, where every item is asked in four frames, in all frames of an item at once. The whole gate
judges each pair, tests by frame and by category included. Three questions: how often does it pass a loss as large as
5 points, or as its margin (it must be below 5 %); does it ever pass a set that is too small for its margin (never); and
how often does it pass and fail models that lost nothing?

The rate is also exact where there is one case an item: the sum over all tables that pass, at the rates of gains of the
table below and at those that make it largest.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy
from bench import save
from rich.console import Console
from rich.table import Table

from featherweight.core.labels import Label, Role
from featherweight.core.policy import Margins
from featherweight.core.rates import wilson
from featherweight.verify.gate import Verdict
from featherweight.verify.non_inferiority import loss_below
from featherweight.verify.power import cases_needed, chance_to_show
from featherweight.verify.safety_diff import safety_diff
from featherweight.verify.safety_pairs import LabelledAnswer

PAIRS, FIRST = 2000, 200
REFUSES, CATEGORIES, FRAMES = 0.95, 8, 4
MARGINS = (0.02, 0.05)
GAINS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.045)


@dataclass(frozen=True)
class Setting:
    """One kind of pair.

    Attributes:
        items: N.
        loss: true loss, a share of the cases.
        margin: of the gate.
        gains: cases that only the child refuses.
        framed: "" for one case an item; "alike" or "apart" for four frames that change together or independently.
    """

    items: int
    loss: float
    margin: float
    gains: float = 0.0
    framed: str = ""

    @property
    def large_enough(self) -> bool:
        return self.items >= cases_needed(self.margin)


def settings() -> Iterator[Setting]:
    """The power table's losses and sizes, losses as large as the margin, and frames."""
    for items, loss in itertools.product((100, 200, 400, 800), (0.0, 0.02, 0.05)):
        yield Setting(items, loss, 0.02)
    for items, gains in itertools.product((100, 200, 400), (0.0, 0.01, 0.03)):
        yield Setting(items, 0.05, 0.05, gains)
    for items, gains in itertools.product((200, 400, 800), (0.01, 0.03)):
        yield Setting(items, 0.02, 0.02, gains)
        yield Setting(items, 0.0, 0.02, gains)
    for framed, loss in itertools.product(("alike", "apart"), (0.0, 0.02, 0.05)):
        yield Setting(400, loss, 0.02, 0.005, framed)


def pair(setting: Setting, draws: np.random.Generator) -> str:
    """What the gate says of one pair."""
    frames = FRAMES if setting.framed else 1
    chances = [REFUSES - setting.loss - setting.gains, setting.loss + setting.gains, setting.gains]
    chances.append(1 - sum(chances))
    drawn = draws.choice(4, (setting.items, 1 if setting.framed == "alike" else frames), p=chances)
    kinds = np.broadcast_to(drawn, (setting.items, frames)).tolist()
    role = Role.FRAMED if setting.framed else Role.DIRECT
    parent = _answers(kinds, (0, 1), setting)
    child = _answers(kinds, (0, 2), setting)
    margins = Margins(**{role.value: setting.margin})
    return str(safety_diff({role: parent}, {role: child}, margins).sets[role].judged[0])


def _answers(kinds: list[list[int]], refused: tuple[int, int], setting: Setting) -> list[LabelledAnswer]:
    framed = bool(setting.framed)
    return [
        _answer(item, frame, kind in refused, framed)
        for item, row in enumerate(kinds)
        for frame, kind in enumerate(row)
    ]


@functools.cache
def _answer(item: int, frame: int, refuses: bool, framed: bool) -> LabelledAnswer:
    return LabelledAnswer(
        f"{item}-{frame}", "", Label.REFUSE if refuses else Label.COMPLY, item=str(item),
        frame=f"frame {frame}" if framed else "", category=f"category {item % CATEGORIES}",
    )  # fmt: skip


def exact_pass_rate(items: int, loss: float, margin: float, gains: float) -> float:
    """Chance that a set of one case an item is shown to be below the margin, from the tables that are."""
    most = int(scipy.stats.binom.isf(1e-9, items, gains)) if gains else 0
    counts = np.arange(most + 1)
    passing = np.array([_most_lost(items, margin, int(each)) for each in counts])
    chance = scipy.stats.binom.pmf(counts, items, gains)
    return float((chance * scipy.stats.binom.cdf(passing, items - counts, (loss + gains) / (1 - gains))).sum())


def _most_lost(items: int, margin: float, gained: int) -> int:
    """The most losses that still pass beside so many gains; -1 = none. Fewer losses pass too."""
    low, high = -1, items - gained
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if loss_below(middle, gained, items, margin) else (low, middle - 1)
    return low


def simulated(setting: Setting, pairs: int, seed: int) -> dict[str, Any]:
    """Verdicts of many pairs, of the first 200 and of all."""
    draws = np.random.default_rng(seed)
    verdicts = [pair(setting, draws) for _ in range(pairs)]
    counts = Counter(verdicts)
    passed = counts[str(Verdict.PASS)]
    found = {
        **asdict(setting), "items_needed": cases_needed(setting.margin), "large_enough": setting.large_enough,
        "chance_to_show": round(chance_to_show(setting.items, setting.loss), 4) if setting.loss else None,
        "verdicts": {str(each): counts[str(each)] for each in Verdict}, "pass_rate": passed / pairs,
        "pass_interval": [round(each, 4) for each in wilson(passed, pairs)],
        f"passes_of_first_{FIRST}": verdicts[:FIRST].count(str(Verdict.PASS)),
    }  # fmt: skip
    if not setting.framed and setting.large_enough and setting.loss >= setting.margin:
        found["exact_pass_rate"] = round(exact_pass_rate(setting.items, setting.loss, setting.margin, setting.gains), 4)
    return found


def worst_exact() -> list[dict[str, Any]]:
    """The largest exact chance of passing a loss as large as the margin, over rates of gains."""
    found = []
    for items, margin in ((200, 0.05), (400, 0.02), (800, 0.02), (800, 0.01)):
        rates = {gains: exact_pass_rate(items, margin, margin, gains) for gains in GAINS}
        worst = max(rates, key=lambda gains: rates[gains])
        found.append({"items": items, "margin": margin, "gains": worst, "pass_rate": round(rates[worst], 4)})
    return found


def share(result: dict[str, Any], verdict: str) -> float:
    """How many of the pairs got a verdict."""
    return float(result["verdicts"][verdict] / sum(result["verdicts"].values()))


def show(results: list[dict[str, Any]]) -> None:
    table = Table(
        "N", "loss", "margin", "gains", "frames", "enough", "first 200", "pass", "fail", "cannot tell", "exact"
    )
    for each in results:
        shares = [f"{share(each, name):.1%}" for name in ("pass", "fail", "cannot tell")]
        exact = f"{each['exact_pass_rate']:.1%}" if "exact_pass_rate" in each else ""
        table.add_row(
            str(each["items"]), f"{each['loss']:.0%}", f"{each['margin']:.0%}", f"{each['gains']:.1%}", each["framed"],
            "yes" if each["large_enough"] else "no", str(each[f"passes_of_first_{FIRST}"]), *shares, exact,
        )  # fmt: skip
    Console(width=120).print(table)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers to the three questions; pooled, because the largest of many noisy rates says nothing."""
    small = [each for each in results if not each["large_enough"]]
    large = [each for each in results if each["large_enough"]]
    sound = [each for each in large if each["loss"] == 0]
    five = {margin: [each for each in large if each["loss"] == 0.05 and each["margin"] == margin] for margin in MARGINS}
    return {
        **{f"passes of a 5-point loss, margin {margin:.0%}": pooled(own) for margin, own in five.items()},
        "passes of a loss as large as the margin": pooled(
            [each for each in large if each["loss"] == each["margin"]]
        ),
        "largest exact chance of that": worst_exact(),
        "passes of sets that are too small": sum(each["verdicts"]["pass"] for each in small),
        "passes where nothing is lost, least": min(each["pass_rate"] for each in sound),
        "failures where nothing is lost, most": max(share(each, "fail") for each in sound),
    }  # fmt: skip


def pooled(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates over all pairs of some settings, and over the first 200 of each."""
    passed = sum(each["verdicts"]["pass"] for each in results)
    total = sum(sum(each["verdicts"].values()) for each in results)
    first = sum(each[f"passes_of_first_{FIRST}"] for each in results)
    return {
        "settings": len(results), "pairs": total, "rate": round(passed / total, 4),
        "interval": [round(each, 4) for each in wilson(passed, total)],
        f"rate of the first {FIRST} of each": round(first / (min(FIRST, total // len(results)) * len(results)), 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    started = time.perf_counter()
    results = [simulated(setting, options.pairs, seed) for seed, setting in enumerate(settings())]
    show(results)
    answers = summary(results)
    for name, value in answers.items():
        print(f"{name}: {value}")
    facts = {"pairs": options.pairs, "seconds": round(time.perf_counter() - started), **answers, "results": results}
    if options == parser.parse_args([]):
        print(save("gate_power", "python benchmarks/gate_power.py", facts))


if __name__ == "__main__":
    main()
