"""How well scores tell right predictions from wrong ones: AUROC, compared pair by pair with a bootstrap over inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from claims.experiment import outcome_of

_RESAMPLES = 1000


@dataclass
class Reliability:
    """Scores of several models on the same inputs, by setting.

    Attributes:
        seen: by setting, one entry a model: area of each score, and of each resample, [resamples].
    """

    seen: dict[str, list[dict[str, tuple[float, torch.Tensor]]]] = field(default_factory=dict)

    def add(self, setting: str, scores: Mapping[str, torch.Tensor], right: torch.Tensor, inputs: torch.Tensor) -> None:
        """Adds a model.

        Args:
            setting: such as a level of noise.
            scores: of every sample, by name; high = reliable.
            right: whether its prediction is right, bool [samples].
            inputs: which input each sample comes from, int64 [samples]; they are what is drawn.
        """
        count = int(inputs.max()) + 1
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(count, (_RESAMPLES, count), generator=generator)
        weights = torch.zeros(_RESAMPLES, count, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        weights = torch.cat([torch.ones(1, count, dtype=torch.float64), weights])[:, inputs]
        found = {name: areas(each, right, weights) for name, each in scores.items()}
        self.seen.setdefault(setting, []).append({name: (float(each[0]), each[1:]) for name, each in found.items()})

    def judged(self, setting: str, better: str, worse: str, margin: float = 0.0) -> dict[str, Any]:
        """Whether one score loses less (1 - AUROC) than another, or at most `margin` more."""
        pairs = [(each[worse], each[better]) for each in self.seen[setting]]
        by_model = torch.tensor([one[0] - other[0] for one, other in pairs], dtype=torch.float64) - margin
        resampled = torch.stack([one[1] - other[1] for one, other in pairs]).mean(0) - margin
        low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        said = f"loses at most {margin:g} more than" if margin else "loses less than"
        return {
            "statement": f"{setting}: {better} {said} {worse}",
            "difference": round(float(by_model.mean()) + margin, 4),
            "interval": [round(low + margin, 4), round(high + margin, 4)],
            "outcome": outcome_of(by_model, low, high), "unit": "1 - AUROC",
        }  # fmt: skip

    def table(self) -> dict[str, dict[str, float]]:
        """Mean AUROC by setting and score."""
        return {
            setting: {name: round(sum(each[name][0] for each in models) / len(models), 4) for name in models[0]}
            for setting, models in self.seen.items()
        }

    def latest(self) -> dict[str, dict[str, float]]:
        """AUROC of the model that was added last."""
        return {
            setting: {name: round(area, 3) for name, (area, _) in models[-1].items()}
            for setting, models in self.seen.items()
        }


def areas(scores: torch.Tensor, right: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """AUROC with each row of weights: the chance that a right sample scores higher than a wrong one; ties count half.

    Args:
        scores: [samples].
        right: bool [samples].
        weights: float64 [rows, samples].
    """
    scores = scores.double()
    above = (scores[right][:, None] > scores[~right]).double() + 0.5 * (
        scores[right][:, None] == scores[~right]
    ).double()
    first, second = weights[:, right], weights[:, ~right]
    hits = ((first @ above) * second).sum(1)
    return hits / (first.sum(1) * second.sum(1)).clamp(min=1e-300)
