"""audit-component: how a prompt log uses a text encoder, and how small one could be. Changes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import OutputError
from featherweight.core.host import open_host
from featherweight.core.progress import Progress
from featherweight.core.prompts import read_prompts
from featherweight.core.run import Run
from featherweight.core.whole import whole_file
from featherweight.measure.workload import Workload, workload
from featherweight.plan.component import TRUNCATED, Recommendation, recommend


@dataclass(frozen=True)
class Audit:
    """What was measured of a component under a log, and what it recommends."""

    workload: Workload
    recommendation: Recommendation

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"workload": self.workload.to_dict(), "recommendation": asdict(self.recommendation)}


def audit_component(
    model: str | Path,
    component: str,
    prompts: str | Path,
    *,
    truncated: float = TRUNCATED,
    out: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Measures how a log of prompts uses a text encoder.

    Args:
        model: a Hugging Face folder of a stock class.
        component: the encoder's place in it, such as "text_model"; "." is the whole model.
        prompts: a .txt file with one prompt a line, or .jsonl.
        truncated: share of prompts that the recommended context may cut.
        out: a JSON file for the numbers; None = none.
        seed: draws the prompts whose outputs are looked at.
        progress: shows what is going on.
    """
    log = read_prompts(prompts)
    if out is not None and out.exists():
        raise OutputError(str(out), "exists already", "choose another file")
    part = open_host(model).component(component)
    run = Run(seed=seed, progress=progress or Progress())
    found = workload(part, log, run.generator("sample of prompts"), run.progress)
    audit = Audit(found, recommend(found, truncated))
    if out is not None:
        with whole_file(out) as draft:
            draft.write_text(json.dumps(audit.to_dict(), indent=1) + "\n", encoding="utf-8")
    return audit
