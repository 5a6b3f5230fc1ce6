"""A monitor: per request, how usual the story is that a model's layers tell of what it predicts.

The conformity score (see `conformity`) of new texts, without labels: of every position, or, while a loaded model
serves, of the position that the next token is drawn from. It reads what some linears read anyway and adds
q (inputs + 1) + 2 q k + k labels multiplications for each, a per cent or two of the model's own. A low score is a
reason to ask a larger model; it is no proof of an error, and a high one no promise.

What it is worth depends on model and labels, so measure it before a router trusts it. On digits and a perceptron it
tells right predictions from wrong ones better than their probability does once pictures are noisy (AUROC 0.91 against
0.87); on SmolLM2-135M with kinds of the next token far worse (0.59 against 0.82).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from featherweight.core.errors import CheckpointError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.measure.conformity import conformity, conformity_by_layer
from featherweight.measure.layer_walk import look
from featherweight.measure.layers import Peepholes, Seen, macs
from featherweight.measure.probe_rows import Positions, ProbeRows, request_rows
from featherweight.measure.token_classes import TokenClasses


@dataclass(frozen=True)
class Monitor:
    """Peepholes with the models that they may be used on.

    Attributes:
        peepholes: fitted on the first of the models.
        models: fingerprints: the parent, and children of its shapes that it was audited with.
        positions: what a sample was when they were fitted.
        classes: of tokens, where labels are classes of the next token; else None.
    """

    peepholes: Peepholes
    models: tuple[str, ...]
    positions: Positions
    classes: TokenClasses | None

    @property
    def macs(self) -> int:
        """Multiplications a token that it adds."""
        return sum(macs(self.peepholes).values())

    def require(self, model: Model) -> None:
        """Refuses a model that it was not made for.

        Raises:
            CheckpointError: it is another one.
        """
        if model.fingerprint not in self.models:
            raise CheckpointError(
                str(model.folder), "is none of the models that this monitor was made for",
                "make one of this model, or name it when the monitor is made of its parent",
            )  # fmt: skip


def monitor_of(peepholes: Peepholes, fit: ProbeRows, models: Sequence[Model]) -> Monitor:
    """A monitor of fitted peepholes.

    Args:
        peepholes: of the parent.
        fit: the rows that they were fitted on.
        models: that it may be used on: the parent, and children of its shapes.
    """
    return Monitor(peepholes, tuple(model.fingerprint for model in models), fit.positions, fit.classes)


@dataclass(frozen=True)
class RequestScore:
    """How usual a request is.

    Attributes:
        score: mean conformity of its positions; from 0 to 1.
        last: of the last position, where the answer begins.
        by_layer: mean cosine of each module's own row: where the story is unusual.
        label: what is predicted at the last position.
        positions: how many were looked at.
    """

    score: float
    last: float
    by_layer: dict[str, float]
    label: str
    positions: int


def score_texts(
    monitor: Monitor, model: Model, texts: Sequence[str], run: Run | None = None, length: int = 512
) -> list[RequestScore]:
    """Scores of texts, one each, block by block: the model need not fit in memory.

    Args:
        monitor: made for this model.
        model: the model.
        texts: requests as the model would read them (a chat goes through the template first).
        run: device and progress.
        length: tokens of a text at most.

    Raises:
        CheckpointError: the monitor is for other models; DataError: a text without tokens.
    """
    if not texts:
        return []
    monitor.require(model)
    holes = monitor.peepholes
    rows = request_rows(model, texts, length, monitor.positions, holes.names, monitor.classes)
    seen = look(model, rows, holes.bases, run or Run(), label="looking at requests", outputs=False)
    return _scores(holes, seen, rows.sample_rows, len(texts))


def _scores(holes: Peepholes, seen: Seen, owners: torch.Tensor, count: int) -> list[RequestScore]:
    """Scores of the requests that samples belong to.

    Args:
        holes: to look through.
        seen: of all samples.
        owners: request of each sample, rising, int64 [samples].
        count: of requests.
    """
    grams, labels = holes.conceptograms(seen), holes.predicted(seen).labels
    scores, rows = conformity(grams, labels, holes.protos), conformity_by_layer(grams, labels, holes.protos)
    found = []
    for request in range(count):
        own = (owners == request).nonzero()[:, 0]
        by_layer = dict(zip(holes.holes, rows[own].mean(0).tolist(), strict=True))
        label = holes.names[int(labels[own[-1]])]
        found.append(RequestScore(float(scores[own].mean()), float(scores[own[-1]]), by_layer, label, len(own)))
    return found


class Watch:
    """Collects what the watched modules read during the latest forward pass of a loaded model.

    Attributes:
        monitor: what it watches with.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._latest: dict[str, torch.Tensor] = {}

    def scores(self, logits: torch.Tensor) -> list[RequestScore]:
        """Of each row's last position in the latest forward pass.

        Args:
            logits: of that pass, [rows, positions, vocabulary]; the last position is read.
        """
        holes, classes = self.monitor.peepholes, self.monitor.classes
        prediction = None if classes is None else classes.mass(logits[:, -1].float().softmax(-1)).cpu()
        inputs = {name: self._latest[name].cpu() for name in holes.holes}
        return _scores(holes, Seen(inputs, prediction=prediction), torch.arange(len(logits)), len(logits))

    def _listener(self, name: str) -> Any:
        basis = self.monitor.peepholes.bases[name]

        def read(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._latest[name] = basis.of_inputs(layer, inputs[0][:, -1].detach().float())

        return read


@contextmanager
def watching(module: torch.nn.Module, monitor: Monitor) -> Iterator[Watch]:
    """Watches a loaded transformers model: after each forward pass, `scores` tells of every row's last position.

    Rows are padded on the left, as for generation. The caller has checked that the monitor is made for this model.

    Args:
        module: the causal language model.
        monitor: made for it.
    """
    watch = Watch(monitor)
    with ExitStack() as stack:
        for name in monitor.peepholes.holes:
            layer = module.get_submodule(name)
            stack.callback(layer.register_forward_pre_hook(watch._listener(name)).remove)
        yield watch
