"""A real HTTP server on a loopback port that answers in the shape of the OpenAI chat API, or fails in a chosen way."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


class Hang:
    """Says nothing until the test is over."""


class Drop:
    """Closes the connection in the middle of an answer."""


class Trickle:
    """Announces a long answer and sends a byte now and then."""


class Reset:
    """Closes the connection before any answer."""


class ChatServer:
    """What was asked, and where.

    Args:
        answer: gives for a request's body the assistant's text, a (status, bytes) pair, perhaps with headers, or one of
            the failures.
    """

    def __init__(self, answer: Callable[[Body], Any]) -> None:
        self.answer = answer
        self.asked: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @contextmanager
    def running(self) -> Iterator[ChatServer]:
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            self.server.shutdown()
            self.server.server_close()
            thread.join()


def _handler(chat: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            chat.asked.append(body)
            chat.headers.append(dict(self.headers))
            chat.paths.append(self.path)
            self._send(chat.answer(body))

        def _send(self, answer: Any) -> None:
            if isinstance(answer, Hang):
                chat.over.wait(30)
                return
            if isinstance(answer, Trickle):
                self._trickle()
                return
            if isinstance(answer, Reset):
                self.connection.close()
                return
            status, content, *headers = answer if isinstance(answer, tuple) else (200, shaped(answer))
            self.send_response(status)
            for name, value in (pair for each in headers for pair in each.items()):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) if not isinstance(answer, Drop) else 10**6))
            self.end_headers()
            self.wfile.write(content)

        def _trickle(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(10**6))
            self.end_headers()
            with contextlib.suppress(OSError):
                while not chat.over.wait(0.05):
                    self.wfile.write(b" ")

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def shaped(text: Any) -> bytes:
    """A text in the shape of a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None if isinstance(text, Drop) else text}}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()
