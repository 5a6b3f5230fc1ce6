"""Models that write: one loaded here, or one behind an endpoint; each answers a list of questions.

A writer says who it is (`facts`, for receipts and stores) and on which terms its words may be used (`licence`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from featherweight.core.endpoint import Endpoint
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.sampling import BATCH, Draw, continue_texts
from featherweight.core.template import ServingForm

NOT_STATED = "not stated"
_AT_A_TIME = 4  # requests under way
_LICENCE = re.compile(r"^licen[cs]e:\s*(.+?)\s*$", re.MULTILINE)


class Writer(Protocol):
    """What answers questions.

    Attributes:
        name: for people.
        facts: plain JSON that identifies it.
        licence: terms of what it writes.
        chat: whether it expects questions rather than the beginning of a text.
        tokenizer: its tokenizer; None where that is unknown.
    """

    @property
    def name(self) -> str: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def licence(self) -> str: ...
    @property
    def chat(self) -> bool: ...
    @property
    def tokenizer(self) -> Any: ...

    def write(self, questions: Sequence[str], tokens: int, draw: Draw, run: Run, purpose: str) -> list[str]:
        """One answer a question, at most `tokens` tokens long; the seed and the purpose decide the draws."""


@dataclass(frozen=True)
class LocalWriter:
    """A model in this process.

    Attributes:
        model: the model; its module is in memory from the first answer on.
        name: for people.
        terms: of what it writes; empty = what its model card says.
    """

    model: Model
    name: str
    terms: str = ""

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"name": self.name, "fingerprint": self.model.fingerprint}

    @functools.cached_property
    def licence(self) -> str:
        return self.terms or licence_of(self.model.folder)

    @property
    def chat(self) -> bool:
        return ServingForm(self.model.tokenizer).chat

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    @functools.cached_property
    def _module(self) -> Any:
        return self.model.module()

    def write(self, questions: Sequence[str], tokens: int, draw: Draw, run: Run, purpose: str) -> list[str]:
        tokenizer, module = self.tokenizer, self._module.to(run.device)
        asked = [ServingForm(tokenizer).asked(question) for question in questions]
        answers: list[str] = []
        batches = [asked[first : first + BATCH] for first in range(0, len(asked), BATCH)]
        with run.progress.track(f"{self.name} writes", len(batches) * tokens) as advance, torch.inference_mode():
            for index, batch in enumerate(batches):
                generator = run.generator(f"{purpose}/{index}")
                written = continue_texts(module, tokenizer, batch, tokens, generator, draw, advance)
                answers += [str(tokenizer.decode(answer, skip_special_tokens=True)) for _, answer in written]
        return answers


@dataclass(frozen=True)
class EndpointWriter:
    """A model behind an OpenAI-compatible endpoint; it gets one seed a question and may honour it or not."""

    endpoint: Endpoint
    terms: str = ""
    chat: bool = True
    tokenizer: Any = None

    @property
    def licence(self) -> str:
        return self.terms or NOT_STATED

    @property
    def name(self) -> str:
        return f"{self.endpoint.model} at {self.endpoint.url}" if self.endpoint.model else self.endpoint.url

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"name": self.name, "endpoint": self.endpoint.url, "model": self.endpoint.model}

    def write(self, questions: Sequence[str], tokens: int, draw: Draw, run: Run, purpose: str) -> list[str]:
        seeds = torch.randint(2**31 - 1, (len(questions),), generator=run.generator(purpose)).tolist()

        def ask(question: str, seed: int) -> str:
            answer = self.endpoint.reply([{"role": "user", "content": question}], tokens, draw, int(seed))
            advance()
            return answer

        pool = ThreadPoolExecutor(_AT_A_TIME)
        try:
            with run.progress.track(f"{self.name} writes", len(questions)) as advance:
                return list(pool.map(ask, questions, seeds))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nothing more is asked


def is_address(name: str) -> bool:
    """Whether a name is the address of an endpoint rather than a model."""
    return name.startswith(("http://", "https://"))


def licence_of(folder: Path) -> str:
    """The licence that a model's card or licence file names, or that none is stated."""
    card = folder / "README.md"
    if card.is_file():
        found = _LICENCE.search(card.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[0].strip() if lines else NOT_STATED
    return NOT_STATED
