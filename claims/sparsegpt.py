"""SparseGPT against magnitude pruning at 30 and 50 % and 2:4, against Wanda and a random mask at 50 %.

`python -m claims.sparsegpt`. Magnitude is also measured on the model as packaged, see `claims.wanda`.
"""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.core import embedded
from featherweight.core.source import default_cache
from featherweight.techniques.prune.magnitude import Magnitude
from featherweight.techniques.prune.sparsegpt import SparseGpt
from featherweight.techniques.prune.wanda import Wanda

CLAIM = (
    "Pruning with second-order updates of the kept weights loses far less than magnitude pruning (arXiv 2301.00774)."
)
SETTINGS = {"30 %": {"sparsity": 0.3}, "50 %": {"sparsity": 0.5}, "2:4": {"pattern": "2:4"}}


def main() -> str:
    experiment = Experiment("sparsegpt", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    for setting, fields in SETTINGS.items():
        experiment.measure(f"magnitude {setting}", Magnitude(**fields), seeds=[0])
        experiment.measure(f"sparsegpt {setting}", SparseGpt(**fields))
    experiment.measure("magnitude 50 % as packaged", Magnitude(sparsity=0.5), [0], embedded.plain(default_cache()))
    experiment.measure("wanda 50 %", Wanda(sparsity=0.5))
    experiment.measure("random mask with updates 50 %", SparseGpt(sparsity=0.5, score="random"))
    statements = [Statement(f"sparsegpt {setting}", f"magnitude {setting}") for setting in SETTINGS]
    statements += [
        Statement("sparsegpt 50 %", "magnitude 50 % as packaged"),
        Statement("sparsegpt 50 %", "wanda 50 %"),
        Statement("sparsegpt 50 %", "random mask with updates 50 %"),
    ]
    return experiment.conclude(statements)


if __name__ == "__main__":
    main()
