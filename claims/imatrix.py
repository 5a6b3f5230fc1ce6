"""Importance-weighted rounding against rounding to nearest at four and five bits. `python -m claims.imatrix`."""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.techniques.quantize.imatrix import Imatrix
from featherweight.techniques.quantize.rtn import Rtn

CLAIM = "Scales that weight each column's error by its mean squared input lose less than plain rounding (llama.cpp)."
FORMATS = ("Q4_0", "Q5_0", "int4-g64")


def main() -> str:
    experiment = Experiment("imatrix", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    for name in FORMATS:
        experiment.measure(f"rtn {name}", Rtn(format=name), seeds=[0])
        experiment.measure(f"imatrix {name}", Imatrix(format=name))
    return experiment.conclude([Statement(f"imatrix {name}", f"rtn {name}") for name in FORMATS])


if __name__ == "__main__":
    main()
