"""A tensor rounded to floating point is an ordinary tensor: saved and read back like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.source import open_folder
from featherweight.techniques.quantize.rtn import Rtn
from featherweight.testing.tiny import tiny_run


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_rounding_to_floating_point_survives_saving(tiny: Path, tmp_path: Path, name: str) -> None:
    rounded = Rtn(format=name).apply(open_folder(tiny), tiny_run(tiny))
    rounded.save(tmp_path / "saved")
    assert open_folder(tmp_path / "saved").fingerprint == rounded.fingerprint
    assert isinstance(rounded.stored(rounded.architecture.linears()[0]), torch.Tensor)
