"""Grafting a causal language model: what stays is the donor's, bit for bit, and nothing else is on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from featherweight.core.architecture import supported
from featherweight.core.errors import CheckpointError, DataError, FeatherweightError, FormatError, RecipeError
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.source import open_folder
from featherweight.core.steps import apply_step
from featherweight.export.exporters import exporter
from featherweight.models.donors import LanguageModelDonor
from featherweight.models.grafted import GraftForSequenceClassification, task_model, trimmed
from featherweight.techniques.quantize.rtn import Rtn
from featherweight.techniques.restructure.graft import Graft, candidate_layers, grow
from featherweight.testing import check_technique, tiny_model

BLOCKS = 4
TEXTS = {
    "numbers": [f"{index} + {3 * index} = {4 * index}, {index * index}" for index in range(25)],
    "words": [f"the {word} of the {word[::-1]} is a {word * 2}" for word in ["house", "tree", "river", "stone"]] * 5
    + [f"a sentence about the letter {letter} and nothing more" for letter in "abcdefghijklmnopqrstu"],
}
QUICK = {"layers": (1, 2), "hidden": (8,), "steps": 60, "learning_rate": 1e-2, "length": 24}


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    rows = [{"text": text, "label": label} for label, texts in TEXTS.items() for text in texts]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


@pytest.fixture(scope="session")
def donor(models_folder: Path) -> Model:
    return open_folder(tiny_model(models_folder, num_hidden_layers=BLOCKS, tie_word_embeddings=True))


def tokens(model: Model, *texts: str) -> dict[str, torch.Tensor]:
    return dict(model.tokenizer(list(texts), padding=True, return_tensors="pt"))


def test_is_a_technique_like_the_others(labels: Path) -> None:
    check_technique(Graft, Graft(data=str(labels), **QUICK))


@pytest.mark.parametrize("model_type", supported())
@pytest.mark.parametrize("layers", [(1, 3), (2,), (BLOCKS,), (1, BLOCKS)])
def test_features_are_the_donors_hidden_states(models_folder: Path, model_type: str, layers: tuple[int, ...]) -> None:
    model = open_folder(tiny_model(models_folder, model_type, num_hidden_layers=BLOCKS))
    inputs = tokens(model, "A text.", "Another, which is longer than the first.")
    with torch.no_grad():
        states = model.module()(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    mask = inputs["attention_mask"][..., None]
    expected = torch.cat([(states[layer] * mask).sum(1) / mask.sum(1) for layer in layers], 1)
    walked = LanguageModelDonor(model)
    trunk, description = walked.trunk(layers, inputs)
    found = trunk(**inputs, output_hidden_states=True).hidden_states
    for layer in layers:
        assert (found[layer] - states[layer])[inputs["attention_mask"] == 1].abs().max() <= 1e-6
    features = walked.features(inputs, layers, "mean")
    assert (torch.cat([features[layer] for layer in layers], 1) - expected).abs().max() <= 1e-5
    assert description["absent"] == ([] if BLOCKS in layers else ["norm"])


def test_the_last_hidden_state_of_the_donor_is_after_the_norm_and_no_other_is(donor: Model) -> None:
    inputs = tokens(donor, "A text of some length.")
    part = slice_model(donor, Keep(blocks=range(2))).module().model(**inputs).last_hidden_state
    trunk, _ = LanguageModelDonor(donor).trunk([2], inputs)
    before_the_norm = trunk(**inputs, output_hidden_states=True).hidden_states[-1]
    assert (part - before_the_norm).abs().max() > 1e-2  # a stock model of two blocks has a norm at its end
    assert "norm.weight" not in trunk.state_dict()


def test_padding_changes_nothing(donor: Model, labels: Path) -> None:
    model = task_model(Graft(data=str(labels), **QUICK).apply(donor, Run()))
    texts = ["12 + 5 = 17", "the river of the stone and some more words"]
    inputs = tokens(donor, *texts)
    more = {name: torch.nn.functional.pad(each, (0, 7), value=0) for name, each in inputs.items()}
    more["input_ids"][:, -7:] = 77
    alone = [model(**tokens(donor, text)).logits for text in texts]
    assert (model(**inputs).logits - model(**more).logits).abs().max() <= 1e-5
    assert (model(**inputs).logits - torch.cat(alone)).abs().max() <= 1e-5


def test_a_frozen_trunk_is_the_donors_bit_for_bit(donor: Model, labels: Path) -> None:
    grafted = Graft(data=str(labels), **QUICK).apply(donor, Run())
    part = slice_model(donor, Keep(blocks=range(2)))
    assert {name: entry.digest for name, entry in grafted.entries.items()} == {
        name: entry.digest for name, entry in part.entries.items()
    }
    trunk = task_model(grafted).trunk
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, donor.tensor(f"model.{name}")), name


def test_a_trained_trunk_is_not_and_the_donor_still_is(donor: Model, labels: Path) -> None:
    before = donor.fingerprint
    settings = Graft(data=str(labels), **{**QUICK, "steps": 5, "trunk_steps": 3, "trunk_learning_rate": 1e-3})
    grafted = settings.apply(donor, Run())
    assert donor.fingerprint == Model(donor.config, donor.entries, donor.folder).fingerprint == before
    name = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(grafted.tensor(name), donor.tensor(name))
    assert torch.equal(task_model(grafted).trunk.state_dict()[name.removeprefix("model.")], grafted.tensor(name))


def test_it_learns(donor: Model, labels: Path) -> None:
    from featherweight.core.labelled import read_labelled

    scion = grow(LanguageModelDonor(donor), read_labelled(labels), Graft(**QUICK), Run())
    assert float(scion.correct.mean()) > 0.9
    assert set(scion.test).isdisjoint(read_labelled(labels).parts(0)["training"])


def test_the_head_survives_saving_and_counts(donor: Model, labels: Path, tmp_path: Path) -> None:
    grafted = Graft(data=str(labels), **QUICK).apply(donor, Run())
    grafted.save(tmp_path / "saved")
    read = open_folder(tmp_path / "saved")
    assert read.fingerprint == grafted.fingerprint
    assert read.parameters == slice_model(donor, Keep(blocks=range(2))).parameters + 128 * 8 + 8 + 8 * 2 + 2
    inputs = tokens(donor, "some text")
    assert torch.equal(task_model(tmp_path / "saved")(**inputs).logits, task_model(grafted)(**inputs).logits)
    other = grafted.with_extra({name: entry.load() + 1e-6 for name, entry in grafted.extra.items()})
    assert other.fingerprint != grafted.fingerprint


def test_a_step_is_kept_with_its_head_and_done_again_when_the_labels_change(
    donor: Model, labels: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "labels.jsonl"
    copy.write_bytes(labels.read_bytes())
    step = Graft(data=str(copy), **QUICK)
    first = apply_step(step, donor, Run(), tmp_path / "steps")
    again = apply_step(step, donor, Run(), tmp_path / "steps")
    assert again.model.fingerprint == first.model.fingerprint == step.apply(donor, Run()).fingerprint
    assert first.content["outside"] == step.outside()
    copy.write_text(labels.read_text("utf-8").replace("house", "castle"), "utf-8")
    assert apply_step(step, donor, Run(), tmp_path / "steps").kept_as != first.kept_as


def test_quantizers_go_on_from_it(donor: Model, labels: Path, tmp_path: Path) -> None:
    grafted = Graft(data=str(labels), **QUICK).apply(donor, Run())
    rounded = Rtn(format="int8-g64").apply(grafted, Run())
    inputs = tokens(donor, "12 + 5 = 17", "the house")
    difference = (task_model(rounded)(**inputs).logits - task_model(grafted)(**inputs).logits).abs().max()
    assert 0 < difference < 1
    folder = tmp_path / "exported"
    folder.mkdir()
    written = exporter("hf")
    written.write(rounded, folder)
    written.check(rounded, folder)
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) == written.file_bytes(rounded)
    read, expected = (task_model(each)(**inputs).logits for each in (folder, rounded))
    assert (read - expected).abs().max() < 0.1
    with pytest.raises(FormatError, match=r"head\.0\.\w+: has no place in GGUF files"):
        exporter("gguf").file_bytes(grafted)


def test_a_head_that_no_longer_fits_is_refused(donor: Model, labels: Path) -> None:
    grafted = Graft(data=str(labels), **QUICK).apply(donor, Run())
    with pytest.raises(CheckpointError, match="has 1 blocks, and its head reads block 2"):
        task_model(slice_model(grafted, Keep(blocks=[0])))
    with pytest.raises(CheckpointError, match="narrow the residual stream before grafting"):
        task_model(slice_model(grafted, Keep(hidden=range(32))))
    with pytest.raises(CheckpointError, match="carries no grafted head"):
        task_model(donor)


def test_layers_are_chosen_where_the_classes_show(donor: Model, labels: Path) -> None:
    from featherweight.core.labelled import read_labelled

    data = read_labelled(labels)
    noise = torch.randn(len(data), 8, generator=torch.Generator().manual_seed(0))
    clear = torch.nn.functional.one_hot(data.targets, 8).float()
    known = {1: noise, 2: clear, 3: noise.flip(0), 4: clear}
    scion_layers = []

    class Known(LanguageModelDonor):
        def trunk(self, layers, inputs):  # type: ignore[no-untyped-def]
            scion_layers.append(layers)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        grow(Known(donor), data, Graft(deepest=1.0, steps=1), Run(), known)
    assert scion_layers == [(2,)]


def test_candidates_are_evenly_spaced_up_to_the_deepest(donor: Model) -> None:
    class Deep(LanguageModelDonor):
        layers = range(1, 31)  # type: ignore[assignment]

        def __init__(self) -> None:
            pass

    assert candidate_layers(Deep(), Graft()) == [2, 4, 6, 8, 9, 11, 13, 15]
    assert candidate_layers(Deep(), Graft(deepest=0.1)) == [1, 2, 3]
    assert candidate_layers(Deep(), Graft(layers=(12, 4, 8))) == [4, 8, 12]
    assert candidate_layers(Deep(), Graft(deepest=0.01)) == [1]


def test_a_trimmed_vocabulary_computes_the_same_on_the_kept_tokens(donor: Model, labels: Path, tmp_path: Path) -> None:
    model = task_model(Graft(data=str(labels), **QUICK).apply(donor, Run()))
    assert isinstance(model, GraftForSequenceClassification)
    inputs = tokens(donor, "12 + 5 = 17", "the river of the stone")
    small = trimmed(model, inputs["input_ids"].unique().tolist())
    count = inputs["input_ids"].unique().numel()
    assert small.get_input_embeddings().weight.shape == (count + 1, 64)
    assert torch.equal(small(**inputs).logits, model(**inputs).logits)
    other = tokens(donor, "completely unseen words")
    assert small(**other).logits.isfinite().all()
    small.save_pretrained(tmp_path / "small")
    read = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    for each in (inputs, other):
        assert torch.equal(read(**each).logits, small(**each).logits)
    assert trimmed(model, range(512)).get_input_embeddings().weight.shape == (513, 64)


def test_no_layers_is_the_donor_itself(donor: Model) -> None:
    assert Graft.neutral().apply(donor, Run()) is donor


def test_recipes_hold_it(labels: Path) -> None:
    recipe = Recipe((Graft(data=str(labels), layers=(4, 8, 12)),))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"data": ""}, DataError, "graft.data: is not given, and grafting needs labels; give a .jsonl file"),
        ({"data": "nowhere.jsonl"}, DataError, "labelled text 'nowhere.jsonl': does not exist"),
        ({"layers": (2, 9)}, RecipeError, "layer 9: is none of the donor's; use some of 1, 2, 3, 4, ..., 4"),
        ({"layers": (0,)}, RecipeError, "layer 0: is none of the donor's"),
        ({"layers": ("model.layers.1",)}, RecipeError, "layer 'model.layers.1': is none of the donor's"),
        ({"layers": (1, 1)}, RecipeError, r"layers \[1, 1\]: name one twice"),
    ],
)
def test_bad_input(
    donor: Model, labels: Path, fields: dict[str, object], error: type[FeatherweightError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Graft(**{"data": str(labels), **QUICK, **fields}).apply(donor, Run())
