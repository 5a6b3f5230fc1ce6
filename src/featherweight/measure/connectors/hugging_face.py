"""A model in this process, asked through transformers: its own chat template, prompts padded on the left, in batches.

Cost: the whole module in float32 and a key/value cache of one batch. A conversation that the template refuses, or that
does not fit the model's context, gets an error and takes no part in its batch.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featherweight.core.cases import Message
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.receipt import versions
from featherweight.core.sampling import Draw, continue_tokens, turn_ends
from featherweight.core.template import prompt_ids
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.connectors.facts import counted_formats, text_digest
from featherweight.measure.connectors.seeds import seed_of

Conversation = Sequence[Message]


class HuggingFaceConnector:
    """Asks a model in this process.

    Args:
        model: the model; its module is in memory from the first answer on.
        device: "cpu" or "cuda".
        lineage: the steps that made it, oldest first.
    """

    def __init__(self, model: Model, device: str = "cpu", lineage: Sequence[Mapping[str, str]] = ()) -> None:
        self.model, self.device = model, device
        self._lineage = [dict(step) for step in lineage]

    @functools.cached_property
    def facts(self) -> Mapping[str, Any]:
        """Fingerprint, lineage, number formats, template, backend and versions."""
        return {
            "backend": "transformers", "fingerprint": self.model.fingerprint, "lineage": self._lineage,
            "architecture": self.model.architecture.class_name,
            "formats": counted_formats(entry.format for entry in self.model.entries.values()),
            "template": text_digest(getattr(self.model.tokenizer, "chat_template", None)),
            "device": self.device.split(":")[0], "dtype": "float32", "versions": versions(),
        }  # fmt: skip

    def answers(self, conversations: Sequence[Conversation], generation: Generation) -> Iterator[Answer]:
        """One answer a conversation; each batch draws from a seed of its own."""
        for first in range(0, len(conversations), generation.batch):
            yield from self._batch(conversations[first : first + generation.batch], generation)

    def _batch(self, conversations: Sequence[Conversation], generation: Generation) -> list[Answer]:
        started = time.perf_counter()
        prompts = [self._prompt(conversation, generation.tokens) for conversation in conversations]
        try:
            drawn = iter(
                self._drawn([each for each in prompts if not isinstance(each, Answer)], conversations, generation)
            )
        except Exception as error:  # out of memory, a broken module: whatever it is, every case keeps its line
            failed = Answer(error=_told(error), seconds=time.perf_counter() - started)
            return [each if isinstance(each, Answer) else failed for each in prompts]
        seconds = (time.perf_counter() - started) / len(conversations)
        return [each if isinstance(each, Answer) else self._answer(next(drawn), seconds) for each in prompts]

    def _prompt(self, conversation: Conversation, tokens: int) -> list[int] | Answer:
        """The token ids after which the model answers, or an answer that says why there are none."""
        try:
            ids = prompt_ids(self.model.tokenizer, conversation)
        except Exception as error:  # a template is a program of somebody else's
            return Answer(error=f"the chat template refuses the conversation: {_told(error)}")
        room = self.model.settings.get("max_position_embeddings")
        if not ids:
            return Answer(error="the conversation is empty in this model's template")
        if room and len(ids) + tokens > room:
            return Answer(error=f"{len(ids)} tokens and {tokens} to draw do not fit the model's context of {room}")
        return ids

    def _drawn(
        self, prompts: Sequence[list[int]], conversations: Sequence[Conversation], generation: Generation
    ) -> list[list[int]]:
        if not prompts:
            return []
        generator = torch.Generator().manual_seed(seed_of(generation.seed, conversations))
        draw = Draw(generation.temperature, generation.top_p)
        with torch.inference_mode():
            return continue_tokens(
                self._module, prompts, generation.tokens, self._ends, generator, draw, until_all_end=True
            )

    def _answer(self, ids: Sequence[int], seconds: float) -> Answer:
        ended = bool(ids) and ids[-1] in self._ends
        text = str(self.model.tokenizer.decode(ids, skip_special_tokens=True))
        stray = [token for token in (ids[:-1] if ended else ids) if token in self._special]
        special = tuple(self.model.tokenizer.convert_ids_to_tokens(stray))
        return Answer(text, ended=ended, tokens=len(ids), seconds=seconds, special=special)

    @property
    def module(self) -> Any:
        """The transformers module that answers."""
        return self._module

    @functools.cached_property
    def _module(self) -> Any:
        return self.model.module().to(self.device)

    @functools.cached_property
    def _special(self) -> frozenset[int]:
        """Tokens that a template puts around what is said, and that are left out of texts."""
        tokenizer = self.model.tokenizer
        added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
        return frozenset((*tokenizer.all_special_ids, *added))

    @functools.cached_property
    def _ends(self) -> frozenset[int]:
        return turn_ends(self.model)


def _told(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
