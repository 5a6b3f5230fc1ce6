"""A connector as an OpenAI-compatible server on a loopback port, for tools that can only ask over HTTP.

One request at a time. A conversation that is put several times gets another seed each time, so that several answers
to one prompt are several draws.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from featherweight.measure.answers import Answer, Connector, Generation, ask
from featherweight.measure.connectors.seeds import seed_of

MODEL = "featherweight"


@dataclass(frozen=True)
class Bridge:
    """Where the server is, and what it wants to be shown."""

    url: str
    key: str


@contextmanager
def bridge(connector: Connector, generation: Generation) -> Iterator[Bridge]:
    """Serves a connector until the block ends.

    Args:
        connector: who answers.
        generation: how, where a request does not say; its seed is the first one.
    """
    key = secrets.token_hex(16)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(_Desk(connector, generation), key))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Bridge(f"http://127.0.0.1:{server.server_address[1]}/v1", key)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Desk:
    """Puts requests to the connector, one after the other."""

    def __init__(self, connector: Connector, generation: Generation) -> None:
        self._connector, self._generation = connector, generation
        self._lock, self._asked = threading.Lock(), Counter[int]()

    def answer(self, body: Mapping[str, Any]) -> Answer:
        messages = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in body["messages"]]
        with self._lock:
            which = seed_of(0, [messages])
            generation = Generation(
                int(body.get("max_tokens") or body.get("max_completion_tokens") or self._generation.tokens),
                float(body.get("temperature", self._generation.temperature)),
                float(body.get("top_p", self._generation.top_p)),
                self._generation.seed + self._asked[which],
                1,
            )
            self._asked[which] += 1
            return next(ask(self._connector, [messages], generation))


def _handler(desk: _Desk, key: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        def do_POST(self) -> None:
            if self.headers.get("Authorization") != f"Bearer {key}":
                self._send(401, {"error": {"message": "wrong key"}})
                return
            try:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = desk.answer(body)
            except (ValueError, KeyError, TypeError) as error:
                self._send(400, {"error": {"message": f"no chat request: {error}"}})
                return
            if answer.error:
                self._send(400, {"error": {"message": answer.error}})
            else:
                self._send(200, _shaped(answer))

        def _send(self, status: int, content: Mapping[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    return Handler


def _shaped(answer: Answer) -> dict[str, Any]:
    choice = {
        "index": 0, "message": {"role": "assistant", "content": answer.text},
        "finish_reason": "length" if answer.ended is False else "stop",
    }  # fmt: skip
    usage = {"prompt_tokens": 0, "completion_tokens": answer.tokens or 0, "total_tokens": answer.tokens or 0}
    return {"id": "0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage}
