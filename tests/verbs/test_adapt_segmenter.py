"""adapt_segmenter: both methods, the choice between them, what is saved and loaded again, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

import featherweight as fw
from featherweight.core.errors import AdapterError, DataError, OutputError, RecipeError, UnsupportedArchitecture
from featherweight.core.module_fingerprint import module_fingerprint
from featherweight.core.progress import Progress
from featherweight.core.scenes import Scenes
from featherweight.models.serial_adapter import SerialAdapter
from featherweight.testing.segmenters import coloured_shapes, tiny_deformable_detr, tiny_mask2former

SCENES = coloured_shapes(8)
QUICK = {"steps": 2, "batch": 4, "learning_rate": 1e-2}
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny_mask2former()


def masks(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=SCENES.images[:2]).masks_queries_logits


@pytest.mark.parametrize("method", ["lora", "adapters"])
def test_after_no_step_the_model_computes_what_the_base_does(base: Any, method: Any) -> None:
    adapted = fw.adapt_segmenter(base, SCENES, method=method, steps=0)
    torch.testing.assert_close(masks(adapted.model), masks(base), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "adapters"])
def test_what_is_saved_is_small_and_loads_on_a_fresh_base(base: Any, method: Any, tmp_path: Path) -> None:
    before, folder = module_fingerprint(base), tmp_path / "adapted"
    adapted = fw.adapt_segmenter(base, SCENES, folder, method=method, held_out=SCENES, **QUICK)
    assert module_fingerprint(base) == before
    torch.testing.assert_close(
        masks(fw.load_segmenter(tiny_mask2former(), folder)), masks(adapted.model), rtol=1e-4, atol=1e-5
    )
    assert float((masks(adapted.model) - masks(base)).abs().max()) > 1e-4
    stored = load_file(folder / "adapter_model.safetensors")
    assert sum(each.numel() for each in stored.values()) == adapted.tuned.trained < 0.1 * adapted.tuned.base
    trained = {id(each): each.numel() for each in adapted.model.parameters() if each.requires_grad}
    assert sum(trained.values()) == adapted.tuned.trained
    facts = json.loads((folder / "featherweight.json").read_text())
    assert (facts["base"], facts["method"]) == (before, f"segmenter-{method}")
    assert facts["receipts"][0]["iou"]["after"] == adapted.after
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "featherweight.json",
    ]  # fmt: skip


def test_lora_merges_and_adapters_do_not(base: Any, tmp_path: Path) -> None:
    adapted = fw.adapt_segmenter(base, SCENES, tmp_path / "lora", method="lora", **QUICK)
    torch.testing.assert_close(masks(adapted.merged()), masks(adapted.model), rtol=1e-4, atol=1e-5)
    assert type(adapted.merged()) is type(base)
    stock = peft.PeftModel.from_pretrained(tiny_mask2former(), str(tmp_path / "lora")).eval()
    torch.testing.assert_close(masks(stock), masks(adapted.model), rtol=1e-4, atol=1e-5)
    with pytest.raises(AdapterError, match="cannot be merged"):
        fw.adapt_segmenter(base, SCENES, method="adapters", steps=0).merged()


def test_auto_measures_and_chooses(base: Any) -> None:
    said: list[str] = []

    class Shown(Progress):
        def say(self, message: str) -> None:
            said.append(message)

    near = fw.adapt_segmenter(base, coloured_shapes(24, 1), reference=coloured_shapes(24).images, threshold=1, steps=0)
    far_scenes = coloured_shapes(24, 2, discs=True, inverted=True)
    far = fw.adapt_segmenter(
        base, far_scenes, reference=coloured_shapes(24).images, threshold=1, steps=0, progress=Shown()
    )
    assert (near.method, far.method) == ("lora", "adapters")
    assert near.shift is not None
    assert far.shift is not None
    assert near.shift < 1 < far.shift
    patient = fw.adapt_segmenter(
        base, far_scenes, reference=coloured_shapes(24).images, steps=0, threshold=far.shift + 1
    )
    assert patient.method == "lora"
    assert "parameters are tuned" in said[0]
    assert f"feature shift {far.shift:.2f}, threshold 1" in said[0]


def test_the_controls_train_heads_or_everything(base: Any) -> None:
    heads = fw.adapt_segmenter(base, SCENES, method="heads", **QUICK)
    full = fw.adapt_segmenter(base, SCENES, method="full", **QUICK)
    assert (heads.tuned.trained, heads.tuned.inserted) == (3234, 0)
    assert full.tuned.share == 1
    changed = [
        name for name, value in heads.model.state_dict().items() if not torch.equal(value, base.state_dict()[name])
    ]
    assert changed
    assert all("class_predictor" in name or "mask_embedder" in name for name in changed)


@pytest.mark.parametrize("method", ["lora", "adapters"])
def test_a_detector_is_adapted_saved_and_loaded(method: Any, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="needs the package pillow")
    base = tiny_deformable_detr()
    adapted = fw.adapt_segmenter(base, SCENES, tmp_path / "adapted", method=method, **{**QUICK, "steps": 24})
    assert sum(adapted.losses[-6:]) < sum(adapted.losses[:6])
    again = fw.load_segmenter(tiny_deformable_detr(), tmp_path / "adapted")
    with torch.no_grad():
        found, expected, before = (each(pixel_values=SCENES.images[:2]) for each in (again, adapted.model, base))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pred_boxes, expected.pred_boxes, rtol=1e-4, atol=1e-5)
    assert float((expected.logits - before.logits).abs().max()) > 1e-4


def test_a_path_is_no_scenes(base: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a path, and scenes are wanted; read it first: featherweight.read_scenes"):
        fw.adapt_segmenter(base, tmp_path, method="lora")  # type: ignore[arg-type]


def test_another_base_is_refused(base: Any, tmp_path: Path) -> None:
    for method in ("lora", "adapters"):
        fw.adapt_segmenter(base, SCENES, tmp_path / method, method=method, steps=0)  # type: ignore[arg-type]
        with pytest.raises(AdapterError, match="belongs to a base with the fingerprint"):
            fw.load_segmenter(tiny_mask2former(seed=1), tmp_path / method)


def test_a_folder_that_lacks_something_is_refused(base: Any, tmp_path: Path) -> None:
    folder = tmp_path / "adapted"
    fw.adapt_segmenter(base, SCENES, folder, method="adapters", steps=0, adapters=SerialAdapter(1))
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, message in (({"count": 2}, "does not fit the base at"), ({"count": None}, "lacks 'count'")):
        kept = {name: value for name, value in {**config, **change}.items() if value is not None}
        (folder / "adapter_config.json").write_text(json.dumps(kept))
        with pytest.raises(AdapterError, match=message):
            fw.load_segmenter(base, folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"has no adapter_model.safetensors; save the adapter again; a pickle"):
        fw.load_segmenter(base, folder)
    with pytest.raises(AdapterError, match="is no folder"):
        fw.load_segmenter(base, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "dora"}, RecipeError, "method 'dora': is unknown; use one of auto, lora"),
        ({"method": "auto"}, DataError, "needs images like those of pretraining"),
        ({"method": "lora", "steps": -1}, RecipeError, "steps = -1: is below 0"),
        ({"method": "full", "out": "full"}, RecipeError, "inserts nothing that could be saved by itself"),
        ({"method": "lora", "out": "."}, OutputError, "exists already"),
        ({"method": "lora", "heads": ("head",), "out": "a"}, RecipeError, "head 'head': is no module"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    base: Any, arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    given = {name: tmp_path / value if name == "out" else value for name, value in arguments.items()}
    with pytest.raises(error, match=message):
        fw.adapt_segmenter(base, SCENES, **given)
    assert list(tmp_path.iterdir()) == []


def test_other_models_and_unknown_classes_are_refused(base: Any) -> None:
    with pytest.raises(UnsupportedArchitecture, match="has no deformable attention"):
        fw.adapt_segmenter(torch.nn.Linear(2, 2), SCENES, method="lora")
    two = Scenes(SCENES.images[:1], SCENES.masks[:1], (torch.full((len(SCENES.masks[0]),), 1),))
    with pytest.raises(DataError, match="has the class 1, and the model has 1 classes; number classes from 0"):
        fw.adapt_segmenter(base, two, method="lora")


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL", reason="needs the package pillow")
    page = (Path(__file__).parents[2] / "docs" / "segmentation.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert (tmp_path / "cards" / "adapter_model.safetensors").is_file()
