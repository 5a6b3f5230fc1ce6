"""A folder of images with COCO annotations as scenes, and a folder of plain images; read with Pillow.

COCO's JSON is what labelling tools export: `annotations.json` (or any one .json, also in `annotations/`) beside the
images or beside `images/`, with outlines as polygons, or as runs of pixels, compressed or not. Images are brought to
one size without keeping their proportions, masks with them. Classes are numbered from 0 in the order of the categories'
numbers. Left out are crowds, images without an object, and objects that have no pixel at the new size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError, MissingExtra
from featherweight.core.lazy import np, torch
from featherweight.core.outlines import REDO, outline_mask
from featherweight.core.scenes import Scenes
from featherweight.core.user_file import read_json_object

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, by which the packaged preprocessors of Mask2Former and Deformable DETR scale."""
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def read_scenes(
    folder: str | Path,
    size: tuple[int, int],
    *,
    annotations: str | Path | None = None,
    boxes: bool = False,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Scenes:
    """The scenes of a folder.

    Args:
        folder: images, with a COCO .json file beside them or in `annotations/`.
        size: height and width to which images are brought.
        annotations: that file, where the folder has several.
        boxes: an object without an outline fills its box; for detectors, which learn boxes alone.
        mean: of each colour, subtracted from values between 0 and 1; the model's preprocessor has it.
        std: of each colour, divided by.

    Raises:
        DataError: the folder or a file in it does not do.
        MissingExtra: Pillow is not installed.
    """
    _require_pillow("reading images")
    source = _folder(folder)
    path = _annotations(source, annotations)
    found = read_json_object(path, DataError, REDO)
    pictures, categories, objects = (_listed(path, found, key) for key in ("images", "categories", "annotations"))
    numbers = {each: index for index, each in enumerate(sorted(_of(path, each, "id") for each in categories))}
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for each in objects:
        if not each.get("iscrowd"):
            by_image.setdefault(_of(path, each, "image_id"), []).append(each)
    images, masks, classes = [], [], []
    for picture in pictures:
        outlined = by_image.get(_of(path, picture, "id"), [])
        read = _scene(source, path, picture, outlined, numbers, size, boxes) if outlined else None
        if read is not None:
            images.append(_scaled(read[0], size, mean, std))
            masks.append(read[1])
            classes.append(read[2])
    if not images:
        raise DataError(str(path), "outlines no object in any image", "mark what is to be found, and export again")
    names = {numbers[each["id"]]: str(each.get("name", each["id"])) for each in categories}
    labels = tuple(names[index] for index in range(len(numbers)))
    return Scenes(torch.stack(images), tuple(masks), tuple(classes), str(source), labels)


def read_images(
    folder: str | Path, size: tuple[int, int], mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> torch.Tensor:
    """All images of a folder by name, float32 [images, 3, height, width].

    Args:
        folder: what else is in it is left alone.
        size: height and width to which images are brought.
        mean: of each colour, subtracted from values between 0 and 1.
        std: of each colour, divided by.

    Raises:
        DataError: there are none, or one cannot be read.
        MissingExtra: Pillow is not installed.
    """
    _require_pillow("reading images")
    source = _folder(folder)
    paths = sorted(each for each in source.iterdir() if each.suffix.lower() in ENDINGS)
    if not paths:
        raise DataError(str(source), "holds no images", f"give a folder with {', '.join(sorted(ENDINGS))} files")
    return torch.stack([_scaled(_image(path), size, mean, std) for path in paths])


def _require_pillow(feature: str) -> None:
    import importlib.util

    if importlib.util.find_spec("PIL") is None:
        raise MissingExtra(feature, "pillow")


def _folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise DataError(str(folder), "is no folder", "give the folder that holds the images")
    return Path(folder)


def _annotations(folder: Path, named: str | Path | None) -> Path:
    if named is not None:
        path = next((each for each in (Path(named), folder / named) if each.is_file()), None)
        if path is None:
            raise DataError(str(named), "does not exist", "give the .json file of the annotations")
        return path
    found = [*sorted(folder.glob("*.json")), *sorted(folder.glob("annotations/*.json"))]
    if len(found) != 1:
        names = f"has the .json files {', '.join(each.name for each in found)}" if found else "has no .json file"
        mend = "say which with annotations=..." if found else f"{REDO} into it"
        raise DataError(str(folder), names, mend)
    return found[0]


def _listed(path: Path, found: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = found.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise DataError(str(path), f"has no list of {key}", REDO)
    return value


def _of(path: Path, each: Mapping[str, Any], key: str) -> Any:
    if key not in each:
        raise DataError(str(path), f"has an entry without {key!r}", REDO)
    return each[key]


def _scene(
    folder: Path,
    path: Path,
    picture: Mapping[str, Any],
    outlined: Sequence[Mapping[str, Any]],
    numbers: Mapping[Any, int],
    size: tuple[int, int],
    boxes: bool,
) -> tuple[Any, torch.Tensor, torch.Tensor] | None:
    """A picture, its masks at the new size and their classes; None where no object has a pixel."""
    from PIL import Image

    image = _image(_file(folder, path, str(_of(path, picture, "file_name"))))
    masks, classes = [], []
    for each in outlined:
        category = _of(path, each, "category_id")
        if category not in numbers:
            raise DataError(f"{path}, annotation {each.get('id')}", f"has the unknown category {category}", REDO)
        mask = outline_mask(each, image.size, boxes, str(path)).resize(size[::-1], Image.Resampling.NEAREST)
        if mask.getbbox() is not None:
            masks.append(torch.from_numpy(np.array(mask)) > 0)
            classes.append(numbers[category])
    if not masks:
        return None
    return image, torch.stack(masks), torch.tensor(classes)


def _file(folder: Path, path: Path, name: str) -> Path:
    """Where an image is: beside the annotations, in the folder, or in its `images`; never outside the folder."""
    for each in (folder / name, folder / "images" / name, folder / Path(name).name):
        if each.is_file() and each.resolve().is_relative_to(folder.resolve()):
            return each
    raise DataError(f"{path}, image {name!r}", f"is not in {folder}", "put the images beside the annotations")


def _image(path: Path) -> Any:
    """An image in three colours."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(
            str(path), f"is no image that can be read ({error})", "save it again, or leave it out"
        ) from None


def _scaled(image: Any, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """An image at a size, with colours as the model expects them, float32 [3, height, width]."""
    from PIL import Image

    resized = image.resize(size[::-1], Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
