"""A model behind an OpenAI-compatible address: as many requests under way as a batch has conversations.

A server that gives no answer several times in a row is not asked any more: the others get an error that says so.
What runs behind the address is what it says it is; nothing here can check that.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from featherweight.core.cases import Message
from featherweight.core.endpoint import Endpoint, NotAnswering
from featherweight.core.errors import EndpointError
from featherweight.core.receipt import versions
from featherweight.core.sampling import Draw
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.connectors.seeds import seed_of

GIVE_UP = 8  # conversations in a row


class OpenAIConnector:
    """Asks a server.

    Args:
        endpoint: where it is.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._failed, self._lock = 0, threading.Lock()

    @functools.cached_property
    def facts(self) -> Mapping[str, Any]:
        """Address, name of the model there, and the version that asked."""
        every = versions()
        own = {name: every[name] for name in ("featherweight", "python")}
        return {"backend": "openai", "url": self.endpoint.url, "model": self.endpoint.model, "versions": own}

    def answers(self, conversations: Sequence[Sequence[Message]], generation: Generation) -> Iterator[Answer]:
        """One answer a conversation, in their order."""
        pool = ThreadPoolExecutor(generation.batch)
        try:
            yield from pool.map(lambda conversation: self._answer(conversation, generation), conversations)
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, conversation: Sequence[Message], generation: Generation) -> Answer:
        if self._failed >= GIVE_UP:
            return Answer(error=f"not asked: {self.endpoint.url} gave no answer {GIVE_UP} times in a row")
        started = time.perf_counter()
        messages, draw = [dict(message) for message in conversation], Draw(generation.temperature, generation.top_p)
        try:
            reply = self.endpoint.completion(
                messages, generation.tokens, draw, seed_of(generation.seed, [conversation])
            )
        except EndpointError as error:
            self._count(failed=isinstance(error, NotAnswering))
            return Answer(error=f"{error.what} {error.why}", seconds=time.perf_counter() - started)
        except Exception as error:  # what no server should be able to cause: every case keeps its line
            self._count(failed=True)
            return Answer(error=str(error) or type(error).__name__, seconds=time.perf_counter() - started)
        self._count(failed=False)
        return Answer(reply.text, ended=reply.ended, tokens=reply.tokens, seconds=time.perf_counter() - started)

    def _count(self, failed: bool) -> None:
        with self._lock:
            self._failed = self._failed + 1 if failed else 0
