"""Ranks after the fact (PARA): how small can a trained LoRA be, and is one threshold better than one rank?

A toy that has read prose is adapted to code with LoRA of rank 16 on all linears; then the adapter is cut without data.
The control of every cut is the best uniform rank (singular values, module by module) with no fewer parameters; slicing
the factors as they were trained is the weak control that is often shown instead.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from claims.experiment import SEEDS, Experiment, Statement
from claims.lora_toys import Language
from featherweight.core.adapter_folder import Adapter, LoraFactors
from featherweight.core.rank_allocation import (
    energy_kept,
    parameters_of,
    ranks_for_budget,
    ranks_for_energy,
    spectra,
    uniform_ranks,
    with_ranks,
)

RANK, RATE, STEPS = 16, 3e-3, 300
ENERGIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
SHARES = (0.1, 0.25)
WHOLE = "LoRA of rank 16"


def main() -> None:
    """Measures, prints, and writes results/para.json."""
    experiment = Experiment(
        "para", "75 to 90 % of a trained LoRA's parameters can be cut without data, by one threshold over all singular "
        "values, and the model predicts as well."
    )  # fmt: skip
    sizes: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for seed in SEEDS:
            language = Language(Path(folder), seed)
            adapter = language.trained("all-linear", RANK, RATE, STEPS, "para")
            variants, facts = cuts(adapter)
            sizes.append(facts)
            for name, each in {"base": None, WHOLE: adapter, **variants}.items():
                experiment.losses.setdefault(name, []).append(language.losses(each))
                print(f"seed {seed}  {name:45s} {mean(experiment.losses[name][-1]):.4f}", flush=True)
    experiment.conclude(
        [
            Statement("energy 0.99", WHOLE, 0.005),
            Statement("25 % of the parameters", WHOLE, 0.03),
            Statement("10 % of the parameters", WHOLE, 0.03),
            Statement("energy 0.9", "uniform, as energy 0.9"),
            Statement("energy 0.5", "uniform, as energy 0.5"),
            Statement("25 % of the parameters", "uniform, as 25 % of the parameters"),
            Statement("25 % of the parameters, by cost", "25 % of the parameters"),
            Statement("uniform, as energy 0.9", "sliced, as energy 0.9"),
        ],
        {
            "model": "Llama of width 64 and 3 blocks, trained on prose; LoRA of rank 16 on all linears, 300 steps on "
            "code",
            "calibration": "none: the cut reads no data",
            "evaluation": "24 held-out rows of 64 tokens of code",
            "margins": "0.03 nats are about 1 % of the loss",
            "parameters": {name: [each[name] for each in sizes] for name in sizes[0]},
        },
        [cheap(sizes)],
    )


def cuts(adapter: Adapter) -> tuple[dict[str, Adapter], dict[str, dict[str, float]]]:
    """The cut adapters by name, and for each its share of the parameters and of the energy."""
    found = spectra(adapter)
    total = adapter.parameters
    chosen = {f"energy {energy:g}": ranks_for_energy(found, energy) for energy in ENERGIES}
    for share in SHARES:
        for by_cost in (False, True):
            name = f"{share:.0%} of the parameters{', by cost' if by_cost else ''}".replace("%", " %")
            limit = share * total
            chosen[name] = ranks_for_budget(
                found, lambda ranks, limit=limit: parameters_of(found, ranks) <= limit, by_cost
            )
    uniform = {
        f"uniform, as {name}": uniform_ranks(found, parameters_of(found, ranks)) for name, ranks in chosen.items()
    }
    variants = {name: with_ranks(adapter, found, ranks) for name, ranks in {**chosen, **uniform}.items()}
    variants |= {
        name.replace("uniform", "sliced"): sliced(adapter, max(ranks.values())) for name, ranks in uniform.items()
    }
    facts = {
        name: {
            "parameters": round(parameters_of(found, ranks) / total, 4),
            "energy": round(energy_kept(found, ranks), 4),
        }
        for name, ranks in {**chosen, **uniform}.items()
    }
    return variants, facts


def sliced(adapter: Adapter, rank: int) -> Adapter:
    """The first components as they were trained, in no order."""
    return adapter.with_factors({
        name: LoraFactors(each.a[:rank], each.b[:, :rank], each.scale) for name, each in adapter.factors.items()
    })  # fmt: skip


def cheap(sizes: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether energy 0.99 needs at most 70 % of the parameters, in every seed."""
    shares = [each["energy 0.99"]["parameters"] for each in sizes]
    outcome = "holds" if max(shares) <= 0.7 else "contradicted" if min(shares) > 0.7 else "undecided"
    return {
        "statement": "energy 0.99 needs at most 70 % of the parameters",
        "difference": round(mean(shares) - 0.7, 4),
        "interval": [round(min(shares) - 0.7, 4), round(max(shares) - 0.7, 4)],
        "outcome": outcome,
        "unit": "share of the parameters",
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
