"""Activation-aware scales against rounding to nearest and importance-weighted rounding. `python -m claims.awq`.

The control without the scale search is `imatrix`: the same weighted rounding, every scale at one.
"""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.techniques.quantize.awq import Awq
from featherweight.techniques.quantize.imatrix import Imatrix
from featherweight.techniques.quantize.rtn import Rtn

CLAIM = "Scaling up salient channels before rounding loses less than plain rounding (arXiv 2306.00978)."
FORMATS = ("Q4_0", "int4-g64")


def main() -> str:
    experiment = Experiment("awq", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    statements = []
    for name in FORMATS:
        experiment.measure(f"rtn {name}", Rtn(format=name), seeds=[0])
        experiment.measure(f"imatrix {name}", Imatrix(format=name))
        experiment.measure(f"awq {name}", Awq(format=name))
        statements += [Statement(f"awq {name}", f"{other} {name}") for other in ("rtn", "imatrix")]
    return experiment.conclude(statements)


if __name__ == "__main__":
    main()
