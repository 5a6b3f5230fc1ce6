"""Grafting on texts (SmolLM2-135M) and on images (a network of its own). `python -m claims.graft`.

Texts: the first words of docstrings of eight packages of the standard library; which package is it? The donor is
SmolLM2-135M, frozen; "graft" reads blocks 4, 8 and 12, "chosen" what greedy probes choose among the first 12,
"truncated" block 12 alone, "full donor" the last of 30 blocks. Images: scikit-learn's 8 x 8 digits; the donor is a
small convolutional network trained here on the same training rows, "donor itself" is that network with its own dense
layers.

A seed draws the parts of the data and the heads' weights; features of the frozen donor are computed once. Losses are
the share of the test rows that are put in a wrong class.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from claims.experiment import SEEDS, Experiment, Statement
from featherweight.core.labelled import Labelled
from featherweight.core.run import Run
from featherweight.models.donors import Donor, Features, LanguageModelDonor, NetworkDonor, batches
from featherweight.models.grafted import GraftForSequenceClassification, trimmed
from featherweight.techniques.restructure.graft import Graft, Scion, grow
from featherweight.train.head import Fitting, train_rows

CLAIM = (
    "A classifier on pooled intermediate features of a donor, the rest of which is thrown away, is at least as accurate"
    " as the donor at a fraction of its size (arXiv 2507.19261)."
)
PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml")
EACH, LENGTH = 80, 40
LAYERS, LAST = (4, 8, 12), 30
CHOSEN = {"layers": None, "deepest": 0.4, "candidates": 6, "probe_steps": 100}
IMAGE_LAYERS = ("6", "8")  # as in the paper: every convolution of the last block that is kept, here two of three


class Errors(Experiment):
    """Shares of wrong test rows, variant by variant."""

    def note(self, name: str, correct: torch.Tensor) -> None:
        """Adds a seed to a variant."""
        self.losses.setdefault(name, []).append((1 - correct).tolist())
        print(f"{time.monotonic() - self.started:5.0f} s  {name:35s} {float(1 - correct.mean()):.4f}", flush=True)

    def mean(self, name: str) -> float:
        """Of a variant, over seeds and rows."""
        return float(torch.tensor(self.losses[name]).mean())


def docstrings() -> Labelled:
    """Docstrings of classes and functions with the package that they are from, equally many of each."""
    library = Path(sysconfig.get_paths()["stdlib"])
    texts: list[str] = []
    for package in PACKAGES:
        # Some versions of Python keep a package's tests inside it.
        paths = [path for path in (library / package).rglob("*.py") if "test" not in path.relative_to(library).parts]
        found = {text for path in paths for text in _docstrings_of(path)}
        texts += sorted(found, key=lambda text: hashlib.sha256(text.encode()).hexdigest())[:EACH]
    return Labelled(texts, tuple(package for package in PACKAGES for _ in range(EACH)), "docstrings")


def _docstrings_of(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
    return [" ".join(text.split())[:200] for text in found if text and len(text) > 40]


def on_texts(experiment: Errors) -> dict[str, Any]:
    """Measures the text variants; returns how large they are."""
    data, donor = docstrings(), LanguageModelDonor(experiment.model)
    settings = Graft(length=LENGTH, layers=LAYERS)
    known = donor.features(donor.inputs(data, LENGTH), donor.layers, settings.pool)
    print(f"{time.monotonic() - experiment.started:5.0f} s  features of the donor", flush=True)
    sizes: dict[str, int] = {"donor": donor.parameters()}
    chosen: list[list[int | str]] = []
    for seed in SEEDS:
        grown = {
            "graft": _grown(donor, data, settings, known, seed),
            "chosen": _grown(donor, data, settings.model_copy(update=CHOSEN), known, seed),
            "truncated": _grown(donor, data, settings.model_copy(update={"layers": LAYERS[-1:]}), known, seed),
            "full donor": _grown(donor, data, settings.model_copy(update={"layers": (LAST,)}), known, seed),
        }
        for name, scion in grown.items():
            experiment.note(name, scion.correct)
            sizes[name] = sum(each.numel() for each in scion.model.parameters())
        small, correct = _trimmed(donor, data, grown["graft"], seed)
        experiment.note("graft, vocabulary trimmed", correct)
        sizes["graft, vocabulary trimmed"] = sum(each.numel() for each in small.parameters())
        chosen.append(list(grown["chosen"].layers))
    return {"parameters": sizes, "chosen_layers": chosen}


def _grown(donor: Donor, data: Labelled, settings: Graft, known: Features, seed: int) -> Scion:
    return grow(donor, data, settings, Run(seed=seed), known)


def _trimmed(
    donor: Donor, data: Labelled, scion: Scion, seed: int
) -> tuple[GraftForSequenceClassification, torch.Tensor]:
    """The graft with the embeddings of the tokens that training and validation texts use, and what it gets right."""
    assert isinstance(scion.model, GraftForSequenceClassification)
    inputs, parts = donor.inputs(data, LENGTH), data.parts(seed)
    seen = inputs["input_ids"][[*parts["training"], *parts["validation"]]].unique().tolist()
    small = trimmed(scion.model, [*seen, *donor.always_kept()])
    some = {name: each[list(scion.test)] for name, each in inputs.items()}
    with torch.no_grad():
        found = torch.cat([small(**batch).logits for batch in batches(some)]).argmax(1)
    return small, (found == data.targets[list(scion.test)]).double()


def network() -> nn.Sequential:
    """Six convolutions and dense layers for 8 x 8 images of ten classes, in the manner of VGG."""
    layers: list[nn.Module] = []
    width = 1
    for index, wider in enumerate((16, 16, 32, 32, 64, 64)):
        layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()]
        width = wider
        if index in (1, 3):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * 2 * 64, 64), nn.ReLU(), nn.Linear(64, 10))


def on_images(experiment: Errors) -> dict[str, Any]:
    """Measures the image variants; returns how large they are."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    data = Labelled(images, tuple(map(str, digits.target)), "digits")
    sizes: dict[str, int] = {}
    for seed in SEEDS:
        module, parts = _trained(data, seed), data.parts(seed)
        donor = NetworkDonor(module)
        with torch.no_grad():
            own = (module(images[parts["test"]]).argmax(1) == data.targets[parts["test"]]).double()
        experiment.note("donor itself", own)
        sizes["donor itself"] = donor.parameters()
        compared = {"graft": IMAGE_LAYERS, "truncated": IMAGE_LAYERS[-1:], "full donor": (donor.last,)}
        for name, layers in compared.items():
            scion = grow(donor, data, Graft(layers=layers), Run(seed=seed))
            experiment.note(name, scion.correct)
            sizes[name] = sum(each.numel() for each in scion.model.parameters())
    return {"parameters": sizes}


def _trained(data: Labelled, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    module, rows = network(), data.parts(seed)["training"]
    assert isinstance(data.inputs, torch.Tensor)
    images = data.inputs

    def loss(batch: Sequence[int]) -> torch.Tensor:
        some = [rows[each] for each in batch]
        return nn.functional.cross_entropy(module(images[some]), data.targets[some])

    generator = torch.Generator().manual_seed(seed)
    train_rows(module.parameters(), loss, len(rows), Fitting(400, 2e-3), generator, "training the donor")
    return module.eval()


def main() -> str:
    images, texts = Errors("graft-images", CLAIM, "error rate"), Errors("graft", CLAIM, "error rate")
    of_images, of_texts = on_images(images), on_texts(texts)
    margin = round(0.03 * (1 - texts.mean("full donor")), 4)
    further = [images.compare(Statement("graft", other)) for other in ("truncated", "full donor", "donor itself")]
    for each in further:
        each["statement"] = f"images: {each['statement']}"
    statements = [
        Statement("graft", "truncated"), Statement("graft", "full donor", margin), Statement("graft", "full donor"),
        Statement("graft, vocabulary trimmed", "graft", 0.02),
    ]  # fmt: skip
    facts = {
        "texts": of_texts,
        "images": {**of_images, "errors": {name: round(images.mean(name), 4) for name in images.losses}},
        "calibration": f"60 % of {len(PACKAGES)} x {EACH} docstrings and of 1797 digits, seeds {list(SEEDS)}",
        "evaluation": "20 % of them, another part each seed",
    }
    return texts.conclude(statements, facts, further)


if __name__ == "__main__":
    main()
