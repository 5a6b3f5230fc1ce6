"""Scenes of handwritten digits (scikit-learn's) on a 64 x 64 ground, with the mask of every digit, in three worlds.

"pretraining": light digits in warm colours on a dark, softly mottled ground. "near": the same in cold colours. "far":
dark digits, half of them mirrored, on a bright ground with a hard grain. Masks are the digits' strokes.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch

from featherweight.core.errors import MissingExtra
from featherweight.core.scenes import Scenes

World = Literal["pretraining", "near", "far"]
SIZE = 64
_SMALLEST, _LARGEST, _MOST = 20, 32, 3
_TINT = {"pretraining": (1.0, 0.9, 0.5), "near": (0.5, 0.9, 1.0), "far": (1.0, 1.0, 1.0)}


@functools.cache
def digits() -> torch.Tensor:
    """All pictures, float32 [pictures, 8, 8], 0 to 1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("the digits", "scikit-learn") from None
    return torch.tensor(load_digits().images, dtype=torch.float32) / 16


def digit_scenes(count: int, world: World, seed: int, pictures: slice = slice(None)) -> Scenes:
    """Scenes of one to three digits that do not touch.

    Args:
        count: how many.
        world: how they look.
        seed: of everything that is drawn.
        pictures: which of the digits may be used.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [_scene(world, digits()[pictures], generator) for _ in range(count)]
    classes = tuple(torch.zeros(len(masks), dtype=torch.int64) for _, masks in drawn)
    return Scenes(torch.stack([image for image, _ in drawn]), tuple(masks for _, masks in drawn), classes, world)


def _scene(world: World, pictures: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    image = _ground(world, generator)
    taken = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    masks: list[torch.Tensor] = []
    for _ in range(1 + _below(_MOST, generator)):
        place = _free_place(taken, _SMALLEST + _below(_LARGEST - _SMALLEST + 1, generator), generator)
        if place is None:
            continue
        taken[place] = True
        mask = torch.zeros_like(taken)
        mask[place] = _strokes(world, pictures, place, generator)
        grain = 0.05 * torch.randn(3, SIZE, SIZE, generator=generator)
        image = torch.where(mask, _colour(world, generator) + grain, image)
        masks.append(mask)
    return image.clamp(0, 1), torch.stack(masks)


def _ground(world: World, generator: torch.Generator) -> torch.Tensor:
    base, fine = 0.3 * torch.rand(3, 1, 1, generator=generator), 32 if world == "far" else 8
    mottle = torch.rand(1, 3, fine, fine, generator=generator)
    if world == "far":
        return 1 - 0.8 * base - 0.35 * torch.nn.functional.interpolate(mottle, size=SIZE, mode="nearest")[0]
    return base + 0.1 * torch.nn.functional.interpolate(mottle, size=SIZE, mode="bilinear")[0]


def _colour(world: World, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.rand(3, 1, 1, generator=generator)
    return 0.35 * drawn if world == "far" else (0.6 + 0.4 * drawn) * torch.tensor(_TINT[world])[:, None, None]


def _strokes(
    world: World, pictures: torch.Tensor, place: tuple[slice, slice], generator: torch.Generator
) -> torch.Tensor:
    side = place[0].stop - place[0].start
    picture = pictures[_below(len(pictures), generator)]
    if world == "far" and _below(2, generator):
        picture = picture.flip(1)
    return torch.nn.functional.interpolate(picture[None, None], size=side, mode="bilinear")[0, 0] > 0.3


def _free_place(taken: torch.Tensor, side: int, generator: torch.Generator) -> tuple[slice, slice] | None:
    for _ in range(20):
        top, left = _below(SIZE - side + 1, generator), _below(SIZE - side + 1, generator)
        place = slice(top, top + side), slice(left, left + side)
        if not bool(taken[place].any()):
            return place
    return None


def _below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator))
