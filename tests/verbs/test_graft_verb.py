"""graft as a verb: any donor, its controls, what is on disk, and that it loads in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import featherweight as fw
import featherweight.models
from featherweight.core.errors import CheckpointError, DataError, OutputError, RecipeError, UnsupportedArchitecture
from featherweight.core.labelled import Labelled
from featherweight.models.grafted import GraftForImageClassification
from featherweight.testing.tiny import tiny_model, tiny_tokenizer
from featherweight.verbs.graft import GraftResult

BLOCKS = 4
QUICK = {"layers": (1, 2), "hidden": (8,), "steps": 60, "learning_rate": 1e-2, "length": 24}
NUMBERS = [f"{index} + {3 * index} = {4 * index}" for index in range(25)]
WORDS = [f"a word, {'ab' * index}" for index in range(25)]
TEXTS = Labelled(NUMBERS + WORDS, ("numbers",) * 25 + ("words",) * 25)
SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**SHAPE, "vocab_size": 512},
    "gpt2": {"n_embd": 32, "n_layer": BLOCKS, "n_head": 4, "vocab_size": 512},
    "modernbert": {**SHAPE, "vocab_size": 512, "pad_token_id": 2, "global_attn_every_n_layers": 2},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": BLOCKS, "n_heads": 4, "vocab_size": 512},
}


def images(rows: int = 40, size: int = 16) -> Labelled:
    """Bright above or bright below."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(rows, 3, size, size, generator=generator)
    values[::2, 0, : size // 2] += 1
    values[1::2, 1, size // 2 :] += 1
    return Labelled(values, ("above", "below") * (rows // 2))


def vgg16(classes: int = 9) -> nn.Module:
    """VGG16's convolutions for 128 x 128 images with the dense layers of the paper's donor."""
    layers: list[nn.Module] = []
    width = 3
    for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for wider in block:
            layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()]
            width = wider
        layers.append(nn.MaxPool2d(2))
    dense = [nn.Flatten(), nn.Linear(4 * 4 * 512, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*layers, *dense, nn.Linear(256, classes))


def nine_classes() -> Labelled:
    values = torch.rand(45, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Labelled(values, tuple("abcdefghi") * 5)


def test_both_published_parameter_counts() -> None:
    donor = vgg16()
    fields = {"layers": ("11", "13", "15"), "steps": 1}
    result = fw.graft(donor, nine_classes(), fields=fields, controls=False)
    assert result.donor_parameters == 16_880_201
    assert sum(each.numel() for each in result.model.parameters()) == result.variants[0].parameters == 1_934_665
    assert sum(each.numel() for each in result.model.trunk.parameters()) == 1_735_488
    assert [type(each) for each in result.model.head] == [nn.Linear, nn.ReLU, nn.Linear]


def test_an_image_graft_is_cut_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    donor = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    donor.train()
    before = {name: value.clone() for name, value in donor.state_dict().items()}
    result = fw.graft(donor, images(), tmp_path / "out", fields={**QUICK, "layers": ("2", "4")})
    assert donor.training
    assert all(torch.equal(before[name], value) for name, value in donor.state_dict().items())
    graft, truncated, full = result.variants
    assert (graft.layers, truncated.layers, full.layers) == (("2", "4"), ("4",), ("8",))
    assert graft.accuracy > 0.9
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {name.split(".")[1] for name in stored if name.startswith("trunk.")} == {"0", "1", "3"}
    assert all(torch.equal(stored[f"trunk.{name}"], before[name]) for name in before if name[0] in "013")
    read = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    values = images().inputs
    assert isinstance(values, torch.Tensor)
    assert torch.equal(read(pixel_values=values).logits, result.model(pixel_values=values).logits)
    assert read.config.id2label == {0: "above", 1: "below"}
    assert result.model(pixel_values=values, labels=images().targets).loss.isfinite()


def test_features_of_a_network_are_global_averages_of_its_modules() -> None:
    donor = vgg16()
    result = fw.graft(donor, nine_classes(), fields={"layers": ("11", "13", "15"), "steps": 1}, controls=False)
    values = nine_classes().inputs
    assert isinstance(values, torch.Tensor)
    seen = []
    for name in ("11", "13", "15"):
        donor.get_submodule(name).register_forward_hook(lambda _, inputs, output: seen.append(output.mean((2, 3))))
    with torch.no_grad():
        donor[:16](values)  # type: ignore[index]
        assert (torch.cat(seen, 1) - result.model.features(pixel_values=values)).abs().max() <= 1e-6


@pytest.mark.parametrize("model_type", ENCODERS)
@pytest.mark.parametrize("layers", [(1, 3), (BLOCKS,)])
def test_encoders_and_decoders_of_transformers(model_type: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **ENCODERS[model_type])
    donor = transformers.AutoModel.from_config(config)
    before = {name: value.clone() for name, value in donor.state_dict().items()}
    fields = {**QUICK, "layers": layers}
    result = fw.graft(donor, TEXTS, tmp_path / "out", fields=fields, tokenizer=tiny_tokenizer(), controls=False)
    assert all(torch.equal(before[name], value) for name, value in donor.state_dict().items())
    inputs = tiny_tokenizer()(["12 + 5", "a word and more of them"], padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    states = donor.eval()(**inputs, output_hidden_states=True).hidden_states
    mask = inputs["attention_mask"][..., None]
    expected = torch.cat([(states[layer] * mask).sum(1) / mask.sum(1) for layer in layers], 1)
    assert (result.model.features(**inputs) - expected).abs().max() <= 1e-6
    read = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(read(**inputs).logits, result.model(**inputs).logits)
    _check_file(result, max(layers))


def test_vision_transformers(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("vit", **SHAPE, image_size=16, patch_size=4)
    donor = transformers.AutoModelForImageClassification.from_config(config).eval()
    result = fw.graft(donor, images(), tmp_path / "out", fields={**QUICK, "pool": "first"}, controls=False)
    values = images().inputs
    with torch.no_grad():
        states = donor(pixel_values=values, output_hidden_states=True).hidden_states
    expected = torch.cat([states[1][:, 0], states[2][:, 0]], 1)
    assert (result.model.features(pixel_values=values) - expected).abs().max() <= 1e-6
    read = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert isinstance(read, GraftForImageClassification)
    assert torch.equal(read(pixel_values=values).logits, result.model(pixel_values=values).logits)
    _check_file(result, 2)


def _check_file(result: GraftResult, blocks: int) -> None:
    """No block above the deepest is on disk, and the file is its weights and hardly more."""
    assert result.folder is not None
    path = result.folder / "model.safetensors"
    names = {part for name in load_file(path) for part in name.split(".") if part.isdigit() and "head" not in name}
    assert names == {str(block) for block in range(blocks)}
    count = sum(each.numel() for each in result.model.parameters())
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == result.variants[-1].bytes == 8 + header + 4 * count


def test_a_language_model_by_its_folder(models_folder: Path, tmp_path: Path) -> None:
    folder = tiny_model(models_folder, hidden_size=128, num_hidden_layers=BLOCKS)
    result = fw.graft(folder, TEXTS, tmp_path / "out", fields={**QUICK, "layers": None}, seed=1)
    graft, truncated, full = result.variants
    assert 1 <= max(graft.layers) <= BLOCKS / 2
    assert truncated.layers == (max(graft.layers),)
    assert full.layers == (BLOCKS,)
    assert graft.parameters < full.parameters < result.donor_parameters
    assert graft.interval[0] <= graft.accuracy <= graft.interval[1]
    assert sum(result.rows.values()) == len(TEXTS)
    _check_saved_facts(tmp_path / "out", result)
    path = tmp_path / "out" / "model.safetensors"
    assert path.stat().st_size == graft.bytes <= 1.02 * 4 * graft.parameters
    classify = transformers.pipeline("text-classification", str(tmp_path / "out"))
    assert {each["label"] for each in classify(["1 + 3 = 4", "a word, abab"])} <= {"numbers", "words"}


def _check_saved_facts(folder: Path, result: GraftResult) -> None:
    facts = json.loads((folder / "graft.json").read_text("utf-8"))
    assert [each["name"] for each in facts["variants"]] == ["graft", "truncated", "full donor"]
    assert facts["variants"][0]["accuracy"] == result.variants[0].accuracy
    assert facts["probes"] == [list(each) for each in result.probes]


def test_a_trimmed_vocabulary(models_folder: Path, tmp_path: Path) -> None:
    folder = tiny_model(models_folder, num_hidden_layers=BLOCKS)
    result = fw.graft(folder, TEXTS, tmp_path / "out", fields=QUICK, trim=True, controls=False)
    graft, small = result.variants
    tokens = result.model.config.tokens
    assert graft.parameters - small.parameters == (512 - tokens - 1) * 64
    read = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert read.config.tokens == tokens
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == small.bytes
    assert abs(small.accuracy - graft.accuracy) <= 0.2


def test_an_encoders_folder(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("bert", **ENCODERS["bert"])
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    result = fw.graft(tmp_path / "bert", TEXTS, fields=QUICK, controls=False)
    assert result.model.trunk.config.model_type == "bert"


def test_one_seed_one_result_and_another_another(models_folder: Path) -> None:
    folder = tiny_model(models_folder, num_hidden_layers=2)
    heads = [
        fw.graft(folder, TEXTS, fields=QUICK, controls=False, seed=seed).model.head.state_dict() for seed in (0, 0, 1)
    ]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not all(torch.equal(heads[0][name], heads[2][name]) for name in heads[0])


def test_unfit_donors_and_data(models_folder: Path, tmp_path: Path) -> None:
    folder = tiny_model(models_folder, num_hidden_layers=2)
    with pytest.raises(DataError, match="holds tensors, and the donor reads texts"):
        fw.graft(folder, images(), fields=QUICK)
    with pytest.raises(DataError, match="holds texts, and the donor reads images"):
        fw.graft(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), TEXTS, fields={"layers": ("0",)})
    with pytest.raises(RecipeError, match="a trimmed vocabulary: is asked for, and the donor reads images"):
        fw.graft(nn.Sequential(nn.Conv2d(3, 4, 1)), images(), fields={"layers": ("0",)}, trim=True)
    with pytest.raises(RecipeError, match=r"layer 'features\.9': is none of the donor's"):
        fw.graft(nn.Sequential(nn.Conv2d(3, 4, 1)), images(), fields={"layers": ("features.9",)})
    with pytest.raises(RecipeError, match="donor of the type dict: is no model"):
        fw.graft({}, TEXTS, fields=QUICK)
    bert = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("bert", **ENCODERS["bert"]))
    with pytest.raises(DataError, match="reads texts and no tokenizer was given"):
        fw.graft(bert, TEXTS, fields=QUICK)
    resnet = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model("resnet", embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    )
    with pytest.raises(UnsupportedArchitecture, match="has no num_hidden_layers"):
        fw.graft(resnet, images(), fields=QUICK)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', "utf-8")
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers"):
        fw.graft(tmp_path, TEXTS, fields=QUICK)
    with pytest.raises(OutputError, match="exists already"):
        fw.graft(folder, TEXTS, tmp_path, fields=QUICK)


def test_layers_by_number_in_a_network_are_refused() -> None:
    with pytest.raises(RecipeError, match="layer 1: is none of the donor's; use some of 0, 1"):
        fw.graft(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), images(), fields={"layers": (1,)})


def test_importing_the_package_of_models_is_enough() -> None:
    assert featherweight.models.__doc__
    assert transformers.AutoConfig.for_model("featherweight_graft").model_type == "featherweight_graft"


def test_the_command_prints_a_table_and_nothing_else(command: Any, models_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = zip(TEXTS.texts, TEXTS.labels, strict=True)
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), "utf-8")
    folder = tiny_model(models_folder, num_hidden_layers=BLOCKS)
    options = ("--layers", "1,2", "--steps", 40, "--trim-vocabulary", "--quiet")
    ended = command("graft", folder, "--data", path, "--out", tmp_path / "out", *options)
    assert (ended.status, ended.err) == (0, "")
    first = [line.split()[0] for line in ended.out.splitlines()]
    assert first == ["classifier", "graft", "trimmed", "truncated", "full", "10", "model"]
    assert transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.layers == [1, 2]


def test_networks_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    fields = {"layers": ("features.11", "features.13", "features.15"), "steps": 1}
    result = fw.graft(models.vgg16(num_classes=9), nine_classes(), fields=fields, controls=False)
    assert result.variants[0].parameters == 1_934_665
    result = fw.graft(models.resnet18(), images(size=32), fields={"layers": ("layer1", "layer2"), "steps": 1})
    assert [each.layers for each in result.variants] == [("layer1", "layer2"), ("layer2",), ("avgpool",)]


def test_networks_of_timm() -> None:
    timm = pytest.importorskip("timm")
    donor = timm.create_model("resnet18", pretrained=False)
    result = fw.graft(donor, images(size=32), fields={"layers": ("layer1", "layer2"), "steps": 1}, controls=False)
    assert result.variants[0].parameters < result.donor_parameters / 10
