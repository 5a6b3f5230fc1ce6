"""FFN channels and key/value groups by contribution, with and without the update. `python -m claims.width`."""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.techniques.prune.width import Width

CLAIM = (
    "Channels chosen by their activations (arXiv 2407.14679) lose less than random ones, and the least-squares update "
    "of the kept columns makes up for part of the loss."
)


def main() -> str:
    experiment = Experiment("width", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    for share in (0.75, 0.5):
        experiment.measure(f"chosen, updated, ffn {share}", Width(ffn=share))
        experiment.measure(f"chosen, ffn {share}", Width(ffn=share, compensate=False))
    experiment.measure("random, updated, ffn 0.75", Width(ffn=0.75, score="random"))
    experiment.measure("random, ffn 0.75", Width(ffn=0.75, score="random", compensate=False))
    experiment.measure("chosen, updated, 2 of 3 groups", Width(ffn=1.0, groups=2))
    experiment.measure("chosen, 2 of 3 groups", Width(ffn=1.0, groups=2, compensate=False))
    experiment.measure("random, updated, 2 of 3 groups", Width(ffn=1.0, groups=2, score="random"))
    pairs = [
        ("chosen, ffn 0.75", "random, ffn 0.75"),
        ("chosen, updated, ffn 0.75", "random, updated, ffn 0.75"),
        ("chosen, updated, ffn 0.75", "chosen, ffn 0.75"),
        ("chosen, updated, ffn 0.5", "chosen, ffn 0.5"),
        ("chosen, updated, 2 of 3 groups", "chosen, 2 of 3 groups"),
        ("chosen, updated, 2 of 3 groups", "random, updated, 2 of 3 groups"),
    ]
    return experiment.conclude([Statement(better, worse) for better, worse in pairs])


if __name__ == "__main__":
    main()
