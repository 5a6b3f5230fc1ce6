"""Fine-tunes of tiny models: the base with random changes, of which some are shared, as folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from featherweight.core.model import COMPANIONS
from featherweight.core.shards import SINGLE

SIZE = 0.02


def change(base: Path, seed: int, shared: float = 0.3, size: float = SIZE) -> dict[str, torch.Tensor]:
    """Random changes of all tensors of a base; two seeds have a cosine of about `shared`."""
    own, common = (torch.Generator().manual_seed(each) for each in (seed, 10_000))
    return {
        name: size * ((1 - shared) ** 0.5 * _like(value, own) + shared**0.5 * _like(value, common))
        for name, value in sorted(load_file(base / SINGLE).items())
    }


def _like(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(value.shape, generator=generator)


def fine_tune(base: Path, folder: Path, changes: dict[str, torch.Tensor]) -> Path:
    """The base plus changes, in the base's number types, with its configuration and tokenizer."""
    folder.mkdir(parents=True)
    values = load_file(base / SINGLE)
    made = {
        name: (value + changes[name]).to(value.dtype) if name in changes else value for name, value in values.items()
    }
    save_file(made, folder / SINGLE, metadata={"format": "pt"})
    for name in (*COMPANIONS, "config.json"):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    return folder


def fine_tunes(base: Path, folder: Path, count: int = 3, shared: float = 0.3) -> list[Path]:
    """Several, called ft-a, ft-b, ..."""
    return [fine_tune(base, folder / f"ft-{'abcdefgh'[seed]}", change(base, seed, shared)) for seed in range(count)]
