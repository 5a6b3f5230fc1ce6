"""Fixtures: tiny random models made once a session; one thread, no hub."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import hypothesis
import pytest
import torch

from featherweight.core.architecture import supported
from featherweight.core.embedded import packaged_file
from featherweight.core.errors import MissingExtra
from featherweight.core.model import Model
from featherweight.core.source import open_model
from featherweight.testing.tiny import tiny_model

# The same examples every time: what a change breaks is then due to the change.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(models_folder: Path) -> Path:
    """A random two-block Llama, untied, float32."""
    return tiny_model(models_folder)


@pytest.fixture(scope="session", params=supported())
def any_architecture(request: pytest.FixtureRequest, models_folder: Path) -> Path:
    """A random two-block model of each supported architecture in turn."""
    return tiny_model(models_folder, request.param)


@pytest.fixture(scope="session")
def smollm() -> Model:
    """The embedded default model."""
    try:
        packaged_file()  # the package itself cannot be imported: it is installed without its dependencies
    except MissingExtra as error:
        pytest.skip(str(error))
    return open_model("smollm2-135m")
