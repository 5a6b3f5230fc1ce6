"""A GGUF file, asked through llama.cpp in this process: its own chat template, one conversation at a time.

One at a time, because what else is in llama.cpp's batch can change an answer. A file without a template goes on with
the text of the conversation; llama.cpp itself would put it into a template of its own choice.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featherweight.core.cases import Message
from featherweight.core.errors import FeatherweightError
from featherweight.core.gguf_metadata import read_gguf
from featherweight.core.receipt import versions
from featherweight.core.sampling import Draw
from featherweight.core.template import rendered
from featherweight.core.user_file import digest_of
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.connectors.facts import counted_formats, lineage_of, text_digest
from featherweight.measure.connectors.seeds import seed_of
from featherweight.measure.llama_runtime import LlamaRuntime

_TEMPLATE = "tokenizer.chat_template"


class LlamaConnector:
    """Asks a file that llama.cpp serves.

    Args:
        runtime: the served file.
    """

    def __init__(self, runtime: LlamaRuntime) -> None:
        self._runtime = runtime

    @functools.cached_property
    def facts(self) -> Mapping[str, Any]:
        """Digest of the file, lineage, number formats, template, backend and versions."""
        digest = digest_of(self._runtime.path)
        return {
            "backend": "llama.cpp", "sha256": digest, "lineage": lineage_of(self._runtime.path, digest),
            "architecture": str(self._file.fields["general.architecture"].value),
            "formats": counted_formats(tensor.type for tensor in self._file.tensors.values()),
            "template": text_digest(self._template), "batch": 1, "versions": versions(),
        }  # fmt: skip

    @functools.cached_property
    def _file(self) -> Any:
        return read_gguf(self._runtime.path)

    @functools.cached_property
    def _template(self) -> str:
        field = self._file.fields.get(_TEMPLATE)
        return str(field.value) if field else ""

    def answers(self, conversations: Sequence[Sequence[Message]], generation: Generation) -> Iterator[Answer]:
        """One answer a conversation."""
        for conversation in conversations:
            started = time.perf_counter()
            try:
                answer = self._answer(conversation, generation)
            except Exception as error:  # llama.cpp refuses a prompt, or breaks: every case keeps its line
                reason = error.why if isinstance(error, FeatherweightError) else str(error)
                answer = Answer(error=reason or type(error).__name__)
            yield Answer(answer.text, answer.error, answer.ended, answer.tokens, time.perf_counter() - started)

    def _answer(self, conversation: Sequence[Message], generation: Generation) -> Answer:
        draw, seed = Draw(generation.temperature, generation.top_p), seed_of(generation.seed, [conversation])
        messages = [dict(message) for message in conversation]
        if self._template:
            return Answer(**self._runtime.chat(messages, generation.tokens, draw, seed))
        return Answer(**self._runtime.go_on(rendered(None, messages), generation.tokens, draw, seed))
