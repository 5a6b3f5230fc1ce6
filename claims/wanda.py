"""Wanda against magnitude pruning at 30 and 50 % and 2:4, with its controls. `python -m claims.wanda`.

The embedded parent has its norms folded into the weights and its channels equalised. That changes sizes of weights, so
magnitude pruning is also measured on the model as it was packaged: the same function on other weights. Wanda's choice
does not depend on the folding.
"""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.core import embedded
from featherweight.core.source import default_cache
from featherweight.techniques.prune.magnitude import Magnitude
from featherweight.techniques.prune.wanda import Wanda

CLAIM = "Weights times input norms, compared in each row, prune better than weights alone (arXiv 2306.11695)."
SETTINGS = {"30 %": {"sparsity": 0.3}, "50 %": {"sparsity": 0.5}, "2:4": {"pattern": "2:4"}}


def main() -> str:
    experiment = Experiment("wanda", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    for setting, fields in SETTINGS.items():
        experiment.measure(f"magnitude {setting}", Magnitude(**fields), seeds=[0])
        experiment.measure(f"wanda {setting}", Wanda(**fields))
    experiment.measure("magnitude 50 % by row", Magnitude(sparsity=0.5, compare="row"), seeds=[0])
    experiment.measure("magnitude 50 % as packaged", Magnitude(sparsity=0.5), [0], embedded.plain(default_cache()))
    experiment.measure("wanda 50 % by matrix", Wanda(sparsity=0.5, compare="matrix"))
    experiment.measure("random 50 %", Wanda(sparsity=0.5, score="random"))
    statements = [Statement(f"wanda {setting}", f"magnitude {setting}") for setting in SETTINGS]
    statements += [
        Statement("wanda 50 %", "magnitude 50 % by row"),
        Statement("wanda 50 %", "magnitude 50 % as packaged"),
        Statement("wanda 50 %", "wanda 50 % by matrix"),
        Statement("wanda 50 %", "random 50 %"),
    ]
    return experiment.conclude(statements)


if __name__ == "__main__":
    main()
