"""A format a tensor against one format for all, at the same bytes. `python -m claims.mixed_precision`.

Both are rounded by GPTQ on the same tokens, so only the choice of formats differs.
"""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.technique import Technique, build
from featherweight.techniques.quantize.gptq import Gptq
from featherweight.techniques.quantize.mixed_precision import MixedPrecision

CLAIM = "Formats chosen by measured damage lose less than one format for every tensor at the same bytes."
UNIFORM = {"4 bits": ("Q4_0", "Q8_0"), "5 bits": ("Q5_0", "Q8_0")}


class Planned(Technique):
    """A plan, then GPTQ: two techniques measured as one."""

    memory: int

    def apply(self, model: Model, run: Run) -> Model:
        return build("gptq", {}).apply(MixedPrecision(memory=self.memory).apply(model, run), run)

    @classmethod
    def neutral(cls) -> Planned:
        return cls(memory=1)


def main() -> str:
    experiment = Experiment("mixed-precision", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    statements = []
    for name, (linear, embedding) in UNIFORM.items():
        uniform = Gptq(format=linear, embedding=embedding)
        experiment.measure(f"one format, {name}", uniform)
        size = uniform.apply(experiment.model, Run(calibration=experiment.calibration(0))).nbytes
        experiment.measure(f"mixed, bytes of {name}", Planned(memory=size))
        statements.append(Statement(f"mixed, bytes of {name}", f"one format, {name}"))
    return experiment.conclude(statements)


if __name__ == "__main__":
    main()
