"""Knowledge grafting: the donor's first blocks, pooled features of a few of them, a small classifier; the rest goes.

z = concat over the layers S of pool(h_l(x)), y = MLP(z), and only blocks 1 to k = max S stay. Which layers: greedy
forward selection by the accuracy of linear probes (softmax regression on standardised features) on a validation part of
the labelled data: our addition, the paper does not say how it chooses. The trunk is frozen unless steps for it are
asked for. S = {k} is plain truncated transfer, S = {all blocks} a probe on the whole donor: both are the controls.
arXiv 2507.19261.

As a step of a recipe the result is an ordinary causal language model of k blocks that carries the head as extra
tensors (`featherweight.models.grafted.task_model` puts them together), so that quantizers can go on from it; as a
language model it is only a truncated one. The verb `graft` makes a classifier of any donor, of texts or of images.
Compute shrinks less than size where early layers are the wide ones, pooling loses where a feature was, and an embedding
may be most of what is left: the verb can trim it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from featherweight.core.errors import CheckpointError, DataError, RecipeError
from featherweight.core.labelled import Labelled, read_labelled
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.selection import forward_selection
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.technique import Kind, Need, Paper, Technique, technique
from featherweight.core.user_file import digest_of
from featherweight.train.head import Fitting, train_head, train_rows

if TYPE_CHECKING:
    from featherweight.models.donors import Donor, Features, Inputs, Layer
    from featherweight.models.grafted import TaskModel

_SAME = 1e-4  # of the largest feature: what the copied trunk may compute otherwise than the donor


@technique
class Graft(Technique):
    """Keeps the first blocks, pools what a few of them compute, and trains a small classifier on it."""

    kind: ClassVar[Kind] = Kind.RESTRUCTURE
    paper: ClassVar[Paper] = Paper(
        "2507.19261",
        "Knowledge Grafting: A Mechanism for Optimizing AI Model Deployment in Resource-Constrained Environments",
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.LABELS})

    data: str = Field("", description='a .jsonl file whose lines hold "text" and "label"')
    layers: tuple[int | str, ...] | None = Field(
        None, description="after how many blocks features are taken (or names of modules); none = choose; () = no graft"
    )
    most: int = Field(3, ge=1, description="how many layers are chosen at most")
    deepest: float = Field(0.5, gt=0, le=1, description="share of the donor's layers among which is chosen")
    candidates: int = Field(8, ge=1, description="how many layers are tried, evenly spaced up to the deepest")
    probe_steps: int = Field(200, ge=1, description="updates of each linear probe")
    pool: Literal["mean", "last", "first"] = Field(
        "mean", description="position whose features are used, or their mean"
    )
    hidden: tuple[int, ...] = Field((256,), description="widths of the head's hidden layers")
    steps: int = Field(300, ge=1, description="updates of the head")
    learning_rate: float = Field(1e-3, gt=0, description="of the head")
    weight_decay: float = Field(0.01, ge=0, description="of the head")
    batch: int = Field(64, ge=1, description="rows an update")
    trunk_steps: int = Field(0, ge=0, description="updates of trunk and head together afterwards; 0 = a frozen trunk")
    trunk_learning_rate: float = Field(5e-5, gt=0, description="of these")
    length: int = Field(128, ge=2, description="tokens of a text that are read")

    def apply(self, model: Model, run: Run) -> Model:
        if self.layers == ():
            return model
        if not self.data:
            raise DataError(f"{self.name}.data", "is not given, and grafting needs labels", "give a .jsonl file")
        from featherweight.models.donors import LanguageModelDonor

        data = read_labelled(self.data)
        scion = grow(LanguageModelDonor(model, run.device), data, self, run)
        run.progress.say(f"grafted after blocks {list(scion.layers)}: {float(scion.correct.mean()):.1%} of test rows")
        settings = {
            "layers": list(scion.layers), "of": model.architecture.blocks, "pool": self.pool,
            "hidden": list(self.hidden), "classes": list(data.classes),
        }  # fmt: skip
        trunk = slice_model(model, Keep(blocks=range(int(scion.layers[-1]))))
        trained = {f"model.{name}": value for name, value in scion.changed.items()}
        head = {f"head.{name}": value for name, value in scion.model.head.state_dict().items()}
        return trunk.with_changes(trained, config={"graft": settings}).with_extra(head)

    @classmethod
    def neutral(cls) -> Graft:
        return cls(layers=())

    def outside(self) -> dict[str, str]:
        path = Path(self.data)
        return {"data": digest_of(path)} if self.data and path.is_file() else {}

    def fitting(self) -> Fitting:
        """How the head is trained."""
        return Fitting(self.steps, self.learning_rate, self.weight_decay, self.batch)


@dataclass(frozen=True)
class Scion:
    """What was grown on a donor.

    Attributes:
        model: the classifier.
        layers: where its features come from, shallow first.
        probes: accuracy of linear probes on the validation part, layer by layer as chosen; empty if they were given.
        changed: trained tensors of the trunk by their names in it; empty for a frozen one.
        correct: 1 for each test row whose class it finds, float64.
        test: the test rows of the data.
    """

    model: TaskModel
    layers: tuple[Layer, ...]
    probes: tuple[tuple[Layer, float], ...]
    changed: dict[str, torch.Tensor]
    correct: torch.Tensor
    test: Sequence[int]


def grow(donor: Donor, data: Labelled, settings: Graft, run: Run, known: Features | None = None) -> Scion:
    """Chooses layers, trains a head on their features, and cuts the donor.

    Args:
        donor: what is grafted from.
        data: labelled inputs of its kind.
        settings: every choice.
        run: seed and progress.
        known: pooled features of all rows that were computed before, by layer.
    """
    parts = data.parts(run.seed)
    inputs = donor.inputs(data, settings.length)
    candidates = candidate_layers(donor, settings)
    features = known if known is not None else donor_features(donor, inputs, candidates, settings, run)
    probes = () if settings.layers else _probes(features, candidates, data, parts, settings, run)
    chosen = {layer for layer, _ in probes} or set(candidates)
    layers = tuple(layer for layer in candidates if layer in chosen)
    joined = torch.cat([features[layer] for layer in layers], 1)
    model = _assembled(donor, data, inputs, layers, joined, parts["training"], settings, run)
    changed = _train_trunk(model, inputs, data.targets, parts["training"], settings, run)
    test = parts["test"]
    found = _logits(model, inputs, test) if changed else model.head(joined[test])
    return Scion(model, layers, probes, changed, (found.argmax(1) == data.targets[test]).double(), test)


def candidate_layers(donor: Donor, settings: Graft) -> list[Layer]:
    """The given layers, or evenly spaced ones up to the deepest allowed; shallow first."""
    if settings.layers:
        if len(set(settings.layers)) != len(settings.layers):
            raise RecipeError(f"layers {list(settings.layers)}", "name one twice", "name each once")
        return sorted(settings.layers, key=donor.depth)
    count = max(round(settings.deepest * len(donor.layers)), 1)
    tried = min(settings.candidates, count)
    return [donor.layers[round((index + 1) * count / tried) - 1] for index in range(tried)]


def donor_features(donor: Donor, inputs: Inputs, layers: Sequence[Layer], settings: Graft, run: Run) -> Features:
    """Pooled features of some layers for all rows, in one pass over the donor."""
    deepest = max(donor.depth(layer) for layer in layers) + 1
    with run.progress.track("features of the donor", deepest) as advance:
        return donor.features(inputs, layers, settings.pool, advance)


def _probes(
    features: Features,
    candidates: Sequence[Layer],
    data: Labelled,
    parts: Mapping[str, Sequence[int]],
    settings: Graft,
    run: Run,
) -> tuple[tuple[Layer, float], ...]:
    """The layers that help linear probes most, with the validation accuracy of the probe of all up to each."""
    from featherweight.models.grafted import dense_layers

    training, validation = parts["training"], parts["validation"]
    fitting = replace(settings.fitting(), steps=settings.probe_steps)

    def score(layers: Sequence[Layer]) -> float:
        joined = torch.cat([features[layer] for layer in layers], 1)
        generator = run.generator(f"{Graft.name} probe")
        probe = dense_layers([joined.shape[1], len(data.classes)], generator)
        train_head(probe, joined[training], data.targets[training], fitting, generator)
        return float((probe(joined[validation]).argmax(1) == data.targets[validation]).double().mean())

    with run.progress.track("probing layers", 1):
        return tuple(forward_selection(candidates, score, settings.most))


def _assembled(
    donor: Donor,
    data: Labelled,
    inputs: Inputs,
    layers: tuple[Layer, ...],
    features: torch.Tensor,
    training: Sequence[int],
    settings: Graft,
    run: Run,
) -> TaskModel:
    """The copied trunk with a head that was trained on the features of the training rows."""
    from featherweight.models.grafted import dense_layers, grafted

    generator = run.generator(f"{Graft.name} head")
    head = dense_layers([features.shape[1], *settings.hidden, len(data.classes)], generator)
    train_head(head, features[training], data.targets[training], settings.fitting(), generator, run.progress)
    model = grafted(donor.trunk(layers, inputs), donor.of_text, layers, settings.pool, data.classes, head)
    some = list(range(min(4, len(features))))
    with torch.no_grad():
        found = model.features(**{name: each[some] for name, each in inputs.items()})
    if not float((found - features[some]).abs().max()) <= _SAME * float(features.abs().max()):
        raise CheckpointError(
            "the copied trunk", "computes other features than the donor",
            "the donor uses parts that cannot be told apart: give another layer, or report this",
        )  # fmt: skip
    return model


def _train_trunk(
    model: TaskModel, inputs: Inputs, targets: torch.Tensor, rows: Sequence[int], settings: Graft, run: Run
) -> dict[str, torch.Tensor]:
    """Trains trunk and head together, where steps are asked for; returns what changed in the trunk."""
    if not settings.trunk_steps:
        return {}

    def loss(batch: Sequence[int]) -> torch.Tensor:
        some = [rows[each] for each in batch]
        logits = model(**{name: each[some] for name, each in inputs.items()}).logits
        return torch.nn.functional.cross_entropy(logits, targets[some])

    fitting = Fitting(settings.trunk_steps, settings.trunk_learning_rate, settings.weight_decay, settings.batch)
    generator = run.generator(f"{Graft.name} trunk")
    train_rows(model.parameters(), loss, len(rows), fitting, generator, "training trunk and head", run.progress)
    return {name: value.detach() for name, value in model.trunk.named_parameters()}


def _logits(model: TaskModel, inputs: Inputs, rows: Sequence[int]) -> torch.Tensor:
    from featherweight.models.donors import batches

    with torch.no_grad():
        some = {name: each[list(rows)] for name, each in inputs.items()}
        return torch.cat([model(**batch).logits for batch in batches(some)])
