"""Round to nearest: every weight to the closest value of its format, no data needed. The baseline of all others."""

from __future__ import annotations

from typing import ClassVar

from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.quantizer import KEEP, Quantizer
from featherweight.core.run import Rewrite, Run
from featherweight.core.technique import Paper, technique


@technique
class Rtn(Quantizer):
    """Rounds every weight to the nearest value of its format; needs no data."""

    paper: ClassVar[Paper] = Paper("", "Round to nearest (the common baseline)")

    def apply(self, model: Model, run: Run) -> Model:
        targets = self.targets(model)
        result = Rewrite(model, run)
        with run.progress.track("rounding to nearest", len(targets)) as advance:
            for name, target in targets.items():
                result[name] = get(target).fit(model.tensor(name))
                advance()
        return result.finish(planned={})

    @classmethod
    def neutral(cls) -> Rtn:
        return cls(format=KEEP)
