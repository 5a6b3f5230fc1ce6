"""How a model is reached: where it runs, under which name and key; and the same for a policy's judge."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from featherweight.core.errors import PolicyError
from featherweight.core.policy import Policy
from featherweight.measure.answers import Connector
from featherweight.measure.connectors.connect import Backend, connect
from featherweight.verbs.prepare import check_device


@dataclass(frozen=True)
class Asking:
    """How a model is reached.

    Attributes:
        served: name of the model at an address.
        key_file: file that holds the key for the address; the key is recorded nowhere.
        timeout: seconds until a silent server counts as dead.
        attempts: how often a request is sent that broke off or met a busy server.
        backend: "auto", "transformers" or "llama.cpp".
        device: "cpu" or "cuda".
        threads: for llama.cpp.
        trust: allow pickled weights.
        cache: where converted models are kept.
    """

    served: str = ""
    key_file: Path | None = None
    timeout: float = 60.0
    attempts: int = 3
    backend: Backend = "auto"
    device: str = "cpu"
    threads: int = 2
    trust: bool = False
    cache: Path | None = None

    def connect(self, name: str | Path) -> contextlib.AbstractContextManager[Connector]:
        """Somebody who answers for a name."""
        check_device(self.device)
        return connect(
            name, served=self.served, key=key_in(self.key_file), timeout=self.timeout, attempts=self.attempts,
            backend=self.backend,
            device=self.device, threads=self.threads, cache=self.cache, trust=self.trust,
        )  # fmt: skip


def backend_of(name: str) -> Backend:
    """A backend by name.

    Raises:
        PolicyError: there is none of this name.
    """
    if name not in get_args(Backend):
        raise PolicyError(f"--backend {name!r}", "is unknown", f"use one of {', '.join(get_args(Backend))}")
    return cast(Backend, name)


def key_in(path: Path | None) -> str:
    """The key that a file holds; empty where there is no file.

    Raises:
        PolicyError: it cannot be read.
    """
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise PolicyError(f"key file {str(path)!r}", "cannot be read", "write the key into that file") from None


@contextlib.contextmanager
def judging(policy: Policy, asking: Asking) -> Iterator[Connector | None]:
    """The model of a policy's judge, reached as `asking` says but for its name and key; None where it names none."""
    judge = policy.judge
    if judge is None:
        yield None
        return
    own = dataclasses.replace(asking, served=judge.served, key_file=judge.key_file, backend="auto")
    with own.connect(judge.model) as connector:
        yield connector
