"""Finds who answers for a name: a model folder, a GGUF file, the embedded default, a hub name, or an address."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from featherweight.core.endpoint import Endpoint
from featherweight.core.errors import CheckpointError
from featherweight.core.model import Model
from featherweight.core.source import open_model
from featherweight.core.writers import is_address
from featherweight.measure.answers import Connector
from featherweight.measure.connectors.facts import lineage_of
from featherweight.measure.connectors.hugging_face import HuggingFaceConnector
from featherweight.measure.connectors.llama import LlamaConnector
from featherweight.measure.connectors.openai import OpenAIConnector
from featherweight.measure.llama_runtime import serve

CONTEXT = 2048
Backend = Literal["auto", "transformers", "llama.cpp"]


@contextlib.contextmanager
def connect(
    name: str | Path,
    *,
    served: str = "",
    key: str = "",
    timeout: float = 60.0,
    attempts: int = 3,
    backend: Backend = "auto",
    device: str = "cpu",
    threads: int = 2,
    context: int = CONTEXT,
    cache: Path | None = None,
    trust: bool = False,
) -> Iterator[Connector]:
    """Somebody who answers for `name`, until the block ends.

    Args:
        name: a Hugging Face folder, a .gguf file, a folder with one, a hub name, smollm2-135m, or the address of an
            OpenAI-compatible server.
        served: name of the model at that address.
        key: for the address; it is recorded nowhere.
        timeout: seconds until a silent server counts as dead.
        attempts: how often a request is sent that broke off or met a busy server.
        backend: "auto" takes llama.cpp for GGUF files and transformers for the rest.
        device: "cpu" or "cuda", for transformers.
        threads: for llama.cpp.
        context: tokens that llama.cpp makes room for.
        cache: where converted models are kept.
        trust: allow pickled weights.

    Raises:
        EndpointError: nobody is at the address; CheckpointError: the model cannot be opened.
    """
    if is_address(str(name)):
        yield _server(str(name), served, key, timeout, attempts)
        return
    file = gguf_of(Path(name))
    if backend == "llama.cpp" and file is None:
        raise CheckpointError(str(name), "holds no GGUF file, which llama.cpp reads", "export it with --format gguf")
    if file is not None and backend != "transformers":
        with serve(file, context, threads) as runtime:
            yield LlamaConnector(runtime)
        return
    yield in_process(name, open_model(name, cache, trust), device)


def in_process(name: str | Path, model: Model, device: str) -> Connector:
    """Who answers for a model that is in this process."""
    path = Path(name)
    return HuggingFaceConnector(model, device, lineage_of(path, model.fingerprint) if path.exists() else ())


def _server(url: str, served: str, key: str, timeout: float, attempts: int) -> Connector:
    """A server that is there; an address without a path gets the usual /v1."""
    if urllib.parse.urlsplit(url).path in ("", "/"):
        url = url.rstrip("/") + "/v1"
    endpoint = Endpoint(url.rstrip("/"), served, key, timeout, attempts=attempts)
    endpoint.require_reachable()
    return OpenAIConnector(endpoint)


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that a path names, or that its folder holds instead of a Hugging Face model."""
    if path.is_dir() and not (path / "config.json").is_file():
        return next(iter(sorted(path.glob("*.gguf"))), None)
    return path if path.suffix == ".gguf" and path.is_file() else None
