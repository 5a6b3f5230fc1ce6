"""GPTQ against round-to-nearest and importance-weighted rounding at four bits. `python -m claims.gptq`."""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.techniques.quantize.gptq import Gptq
from featherweight.techniques.quantize.imatrix import Imatrix
from featherweight.techniques.quantize.rtn import Rtn

CLAIM = "Error feedback loses less than rounding to nearest at the same four bits (arXiv 2210.17323)."
FORMATS = ("Q4_0", "int4-g64")


def main() -> str:
    experiment = Experiment("gptq", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    statements = []
    for name in FORMATS:
        experiment.measure(f"rtn {name}", Rtn(format=name), seeds=[0])
        experiment.measure(f"imatrix {name}", Imatrix(format=name))
        experiment.measure(f"gptq {name}", Gptq(format=name))
        statements += [Statement(f"gptq {name}", f"{other} {name}") for other in ("rtn", "imatrix")]
    return experiment.conclude(statements)


if __name__ == "__main__":
    main()
