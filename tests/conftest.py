"""Fixtures: tiny models and one run made once a session, the command line in this process; few threads, no hub."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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
import transformers

from featherweight.cli import main
from featherweight.core.architecture import supported
from featherweight.core.budget import Budget
from featherweight.core.data import default_documents, tokenize
from featherweight.core.embedded import packaged_file
from featherweight.core.errors import MissingExtra
from featherweight.core.model import Model, copy_companions
from featherweight.core.source import open_folder, open_model
from featherweight.export.gguf import write_gguf
from featherweight.testing.tiny import tiny_model
from featherweight.verbs.fit import FitResult, fit
from featherweight.verbs.prepare import Settings

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


@pytest.fixture(scope="session")
def tiny_gguf(tiny: Path, models_folder: Path) -> Path:
    """The same as a GGUF file."""
    path = models_folder / "tiny.gguf"
    write_gguf(open_folder(tiny), path)
    return path


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


@pytest.fixture(scope="session")
def trained(models_folder: Path) -> Path:
    """A two-block Llama that has read enough prose and code to predict worse when it is rounded badly."""
    source = tiny_model(models_folder, seed=1)
    target = models_folder / "trained"
    module = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3, weight_decay=0)
    ids = tokenize(default_documents(), open_folder(source).tokenizer, rows=1200, length=64).ids
    for batch in ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))].split(8):
        module(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.save_pretrained(target)
    copy_companions(source, target)
    return target


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where converted models and self-written chat are kept, but those of the real model."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small() -> Settings:
    """Settings with which a fit of a tiny model takes seconds."""
    return Settings(length=48, calibration_rows=8, selection_rows=9, held_out_rows=9, probe_rows=3, trials=1)


@pytest.fixture(scope="session")
def fitted(trained: Path, small: Settings, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A finished fit of a tiny model to 60 % of its bytes, as a GGUF file; tests may read it and write nothing."""
    return fit(trained, Budget(memory=0.6), tmp_path_factory.mktemp("runs") / "run", settings=small, cache=cache)


@pytest.fixture(scope="session")
def infeasible(trained: Path, small: Settings, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A fit of a tiny model to 2 % of its bytes, which nothing meets."""
    budget = Budget(memory=0.02, quality=0.5)
    return fit(trained, budget, tmp_path_factory.mktemp("runs") / "run", settings=small, cache=cache)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]
Unchanged = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def command(cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in this process: `command("fit", model, "--memory", "45%")`."""
    monkeypatch.setenv("FEATHERWEIGHT_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["featherweight", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def unchanged() -> Unchanged:
    """`with unchanged(folder): ...` asserts that nothing in a folder was made, changed or removed."""

    @contextmanager
    def same(folder: Path) -> Iterator[None]:
        before = _contents(folder)
        yield
        assert _contents(folder) == before

    return same


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }
