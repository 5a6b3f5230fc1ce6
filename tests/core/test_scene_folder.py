"""Folders of images with COCO annotations: the same scenes come back from every kind of outline; what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import featherweight as fw
from featherweight.core.errors import DataError, MissingExtra
from featherweight.core.outlines import outline_mask
from featherweight.core.scene_folder import read_images, read_scenes
from featherweight.core.scenes import Scenes
from featherweight.testing.segmenters import SIZE, coloured_shapes

Image = pytest.importorskip("PIL.Image", reason="needs the package pillow")
PLAIN: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def runs_of(mask: np.ndarray) -> list[int]:
    """Runs of zeros and ones in turn, column by column, the first of zeros."""
    pixels = mask.T.flatten().astype(int)
    ends = [*(np.flatnonzero(np.diff(pixels)) + 1).tolist(), len(pixels)]
    runs = np.diff([0, *ends]).tolist()
    return [0, *runs] if pixels[0] else runs


def packed(runs: list[int]) -> str:
    """Runs in COCO's compressed form."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | (32 if more else 0)))
    return text


def outlined(mask: torch.Tensor, how: str) -> Any:
    if how == "polygons":
        rows, columns = mask.nonzero().unbind(1)
        top, bottom, left, right = (int(each) for each in (rows.min(), rows.max(), columns.min(), columns.max()))
        return [[left, top, right, top, right, bottom, left, bottom]]
    runs = runs_of(mask.numpy())
    return {"size": [SIZE, SIZE], "counts": packed(runs) if how == "compressed runs" else runs}


def scene_folder(folder: Path, scenes: Scenes, how: str = "runs", images: str = "", **changes: Any) -> Path:
    """A COCO folder of scenes; their categories are 7 and 3, which are classes 1 and 0."""
    (folder / images).mkdir(parents=True)
    found: dict[str, Any] = {
        "images": [], "annotations": [], "categories": [{"id": 7, "name": "disc"}, {"id": 3, "name": "square"}],
    }  # fmt: skip
    for number, image in enumerate(scenes.images):
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / images / f"{number}.png")
        found["images"].append({"id": number, "file_name": f"{number}.png", "height": SIZE, "width": SIZE})
        for mask, label in zip(scenes.masks[number], scenes.classes[number].tolist(), strict=True):
            found["annotations"].append({
                "id": len(found["annotations"]), "image_id": number, "category_id": (3, 7)[label],
                "segmentation": outlined(mask, how),
            })  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps({**found, **changes}))
    return folder


def changed(folder: Path, number: int, **changes: Any) -> None:
    """Changes an annotation."""
    path = folder / "annotations.json"
    found = json.loads(path.read_text())
    found["annotations"][number].update(changes)
    path.write_text(json.dumps(found))


@pytest.fixture
def scenes() -> Scenes:
    drawn = coloured_shapes(4)
    classes = tuple(torch.arange(len(each)) % 2 for each in drawn.masks)
    return Scenes(drawn.images, drawn.masks, classes)


@pytest.mark.parametrize("how", ["runs", "compressed runs", "polygons"])
@pytest.mark.parametrize("images", ["", "images"])
def test_what_was_written_comes_back(tmp_path: Path, scenes: Scenes, how: str, images: str) -> None:
    found = fw.read_scenes(scene_folder(tmp_path / "photos", scenes, how, images), (SIZE, SIZE), **PLAIN)
    torch.testing.assert_close(found.images, scenes.images, rtol=0, atol=0.51 / 255)
    for (one, other), classes in zip(zip(found.masks, scenes.masks, strict=True), scenes.classes, strict=True):
        assert torch.equal(one, other)
        assert len(one) == len(classes)
    assert all(torch.equal(one, other) for one, other in zip(found.classes, scenes.classes, strict=True))
    assert (found.labels, found.take([1]).labels) == (("square", "disc"), ("square", "disc"))


def test_another_size_and_the_usual_colours(tmp_path: Path, scenes: Scenes) -> None:
    folder = scene_folder(tmp_path / "photos", scenes)
    found, plain = read_scenes(folder, (32, 48)), read_scenes(folder, (32, 48), **PLAIN)
    assert found.images.shape == (4, 3, 32, 48)
    assert found.masks[0].shape[1:] == (32, 48)
    assert float(found.masks[0].float().mean()) == pytest.approx(float(scenes.masks[0].float().mean()), abs=0.03)
    torch.testing.assert_close(found.images[:, 0], (plain.images[:, 0] - 0.485) / 0.229)
    assert torch.equal(read_images(folder, (32, 48)), found.images)


@given(
    st.integers(1, 6).flatmap(
        lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=9)
    )
)
def test_runs_are_unpacked(rows: list[list[bool]]) -> None:
    mask = np.array(rows)
    for counts in (runs_of(mask), packed(runs_of(mask))):
        outline = {"segmentation": {"size": list(mask.shape), "counts": counts}}
        found = outline_mask(outline, mask.shape[::-1], False, "photos")
        assert np.array_equal(np.array(found) > 0, mask)


def test_long_runs_are_unpacked() -> None:
    mask = np.zeros((300, 200), bool)
    mask[7:290, 3:150], mask[100, 20] = True, False
    outline = {"segmentation": {"size": [300, 200], "counts": packed(runs_of(mask))}}
    found = outline_mask(outline, (200, 300), False, "photos")
    assert np.array_equal(np.array(found) > 0, mask)


def test_crowds_and_images_without_objects_are_left_out(tmp_path: Path, scenes: Scenes) -> None:
    folder = scene_folder(tmp_path / "photos", scenes)
    for number in range(len(scenes.masks[0])):  # those of the first image
        changed(folder, number, iscrowd=1)
    assert len(read_scenes(folder, (SIZE, SIZE))) == 3


def test_boxes_without_outlines_are_for_detectors(tmp_path: Path, scenes: Scenes) -> None:
    folder = scene_folder(tmp_path / "photos", scenes)
    changed(folder, 0, segmentation=[], bbox=[10, 20, 30.4, 15])
    with pytest.raises(DataError, match=r"annotation 0: has no outline, only a box; outline .* with boxes=True for a"):
        read_scenes(folder, (SIZE, SIZE))
    mask = read_scenes(folder, (SIZE, SIZE), boxes=True).masks[0][0]
    assert int(mask.sum()) == 30 * 15
    assert bool(mask[20:35, 10:40].all())
    changed(folder, 0, bbox=[10, 20])
    with pytest.raises(DataError, match="is neither polygons nor runs"):
        read_scenes(folder, (SIZE, SIZE), boxes=True)


def test_objects_that_vanish_are_left_out(tmp_path: Path, scenes: Scenes) -> None:
    folder = scene_folder(tmp_path / "photos", scenes.take([0]))
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[0, 0] = True
    changed(folder, 0, segmentation=outlined(mask, "runs"))
    assert len(read_scenes(folder, (SIZE, SIZE)).masks[0]) == len(scenes.masks[0])
    if len(scenes.masks[0]) > 1:
        assert len(read_scenes(folder, (8, 8)).masks[0]) == len(scenes.masks[0]) - 1
    else:
        with pytest.raises(DataError, match="outlines no object in any image"):
            read_scenes(folder, (8, 8))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"segmentation": "circle"}, "has an outline that is neither polygons nor runs"),
        ({"segmentation": {"size": [8, 8], "counts": [64]}}, "has an outline that is neither polygons nor runs"),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": [3, 4]}}, "has an outline that is neither"),
        ({"category_id": 99}, "annotation 0: has the unknown category 99"),
    ],
)
def test_bad_annotations(tmp_path: Path, scenes: Scenes, changes: dict[str, Any], said: str) -> None:
    folder = scene_folder(tmp_path / "photos", scenes)
    changed(folder, 0, **changes)
    with pytest.raises(DataError, match=said):
        read_scenes(folder, (SIZE, SIZE))


def test_bad_folders(tmp_path: Path, scenes: Scenes) -> None:
    folder = scene_folder(tmp_path / "photos", scenes)

    def refused(said: str, place: Path = folder, **options: Any) -> None:
        with pytest.raises(DataError, match=said):
            read_scenes(place, (SIZE, SIZE), **options)

    refused("is no folder; give the folder that holds the images", tmp_path / "nowhere")
    refused("does not exist; give the .json file", annotations="none.json")
    (folder / "second.json").write_text("{}")
    refused("has the .json files annotations.json, second.json; say which with annotations=")
    refused("has no list of images; export the annotations as COCO", annotations="second.json")
    assert len(read_scenes(folder, (8, 8), annotations="annotations.json")) > 0
    (folder / "second.json").write_text("[")
    refused("is not valid JSON", annotations=folder / "second.json")
    (folder / "second.json").unlink()
    (folder / "1.png").write_bytes(b"no image")
    refused(r"1.png: is no image that can be read .*; save it again, or leave it out")
    (folder / "1.png").unlink()
    refused("image '1.png': is not in .*; put the images beside the annotations")
    (folder / "annotations.json").unlink()
    refused(r"has no .json file; export the annotations as COCO .* into it")
    with pytest.raises(DataError, match=r"holds no images; give a folder with \.bmp"):
        read_images(tmp_path, (8, 8))


def test_images_outside_the_folder_are_not_read(tmp_path: Path, scenes: Scenes) -> None:
    folder = scene_folder(tmp_path / "photos", scenes.take([0]))
    (folder / "0.png").rename(tmp_path / "secret.png")
    path = folder / "annotations.json"
    path.write_text(path.read_text().replace("0.png", "../secret.png"))
    with pytest.raises(DataError, match=r"image '../secret.png': is not in"):
        read_scenes(folder, (SIZE, SIZE))


def test_without_pillow(tmp_path: Path, scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = scene_folder(tmp_path / "photos", scenes)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"reading images: .*pip install pillow"):
        read_scenes(folder, (SIZE, SIZE))
    with pytest.raises(MissingExtra, match="pip install pillow"):
        read_images(folder, (SIZE, SIZE))
