"""A model behind an OpenAI-compatible chat endpoint: one request an answer, with time limits and a few attempts.

Knows the wire and nothing of models. A server that is not there, that breaks off, that refuses or that answers in
another shape gives an error which says which of these it was.
"""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featherweight.core.errors import EndpointError
from featherweight.core.sampling import Draw

if TYPE_CHECKING:
    import http.client

_PATH = "/chat/completions"
_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be gone a moment later
_SHOWN = 80
_PIECE, _LARGEST = 2**16, 64 * 10**6  # bytes
_ENDED = {"stop": True, "length": False}


class NotAnswering(EndpointError):
    """Nobody is there, or there was no whole answer after all attempts."""


class _Passing(Exception):
    """Went wrong in a way that may be gone at the next attempt, after so many seconds if the server says."""

    def __init__(self, problem: str, after: float = 0.0) -> None:
        super().__init__(problem)
        self.after = after


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire.

    Attributes:
        text: of the assistant; empty where the model gave none.
        ended: whether the model ended its turn; None where the server does not say.
        tokens: how many it wrote; None where the server does not say.
    """

    text: str
    ended: bool | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Endpoint:
    """Where to ask.

    Attributes:
        url: address of the API, up to and including /v1.
        model: name of the model there; may be empty where the server has only one.
        key: sent as a bearer token; empty = none.
        timeout: seconds until a silent connection counts as dead.
        attempts: how often a request that timed out, broke off or met a busy server is sent.
        limit: seconds until an answer that trickles in counts as too late.
        pause: seconds before the second attempt; each later one waits twice as long.
    """

    url: str
    model: str = ""
    key: str = field(default="", repr=False)
    timeout: float = 60.0
    limit: float = 600.0
    attempts: int = 3
    pause: float = 0.5

    def reply(self, messages: Sequence[Mapping[str, str]], tokens: int, draw: Draw, seed: int) -> str:
        """The text of `completion`."""
        return self.completion(messages, tokens, draw, seed).text

    def completion(self, messages: Sequence[Mapping[str, str]], tokens: int, draw: Draw, seed: int) -> Reply:
        """The assistant's answer to a conversation, at most `tokens` tokens.

        Raises:
            EndpointError: there is none, after all attempts.
        """
        body = {
            "model": self.model, "messages": list(messages), "max_tokens": tokens,
            "temperature": draw.temperature, "top_p": draw.top_p, "seed": seed,
        }  # fmt: skip
        problem, after = "", 0.0
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(max(self.pause * 2 ** (attempt - 1), after))
            try:
                return _answer_in(self._post(json.dumps(body)), self.url)
            except _Passing as passing:
                problem, after = str(passing), passing.after
        raise NotAnswering(
            self.url, f"{problem} at each of {self.attempts} attempts", "see whether the server is well, or wait longer"
        )

    def require_reachable(self) -> None:
        """Opens a connection and closes it; what the server answers is another matter.

        Raises:
            EndpointError: nobody is there, or the address is none.
        """
        connection, _ = self._connection()
        try:
            connection.connect()
        except OSError as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _unreachable(self, error: OSError) -> NotAnswering:
        reason = error.strerror or str(error) or type(error).__name__
        return NotAnswering(self.url, f"cannot be reached ({reason})", "start the server, or correct the address")

    def _post(self, body: str) -> bytes:
        import http.client

        connection, path = self._connection()
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            content = self._whole(answer)
        except TimeoutError:
            raise _Passing(f"did not answer within {self.timeout:g} s") from None
        except (http.client.HTTPException, ConnectionResetError, BrokenPipeError):
            raise _Passing("broke off its answer") from None
        except OSError as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()
        if answer.status in _AGAIN:
            after = _seconds(answer.getheader("Retry-After"), self.timeout)
            raise _Passing(f"answered with status {answer.status}{_reason(content)}", after)
        if answer.status != 200:
            raise EndpointError(
                self.url, f"refused the request with status {answer.status}{_reason(content)}",
                "check the address, the key and the name of the model",
            )  # fmt: skip
        return content

    def _whole(self, answer: http.client.HTTPResponse) -> bytes:
        """The body, unless it takes too long or grows too large: a server may trickle for ever."""
        until, parts = time.monotonic() + self.limit, bytearray()
        while part := answer.read1(_PIECE):
            parts += part
            if time.monotonic() > until:
                raise _Passing(f"had not finished its answer after {self.limit:g} s")
            if len(parts) > _LARGEST:
                raise EndpointError(self.url, "answered with more than 64 MB", "see what is running at this address")
        if answer.length:
            raise _Passing("broke off its answer")
        return bytes(parts)

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        import http.client

        try:
            parts = urllib.parse.urlsplit(self.url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:  # a port that is no number
            scheme, host, port = "", None, None
        if scheme not in ("http", "https") or not host:
            raise EndpointError(self.url, "is no address of a server", "write for example http://localhost:8080/v1")
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        return kind(host, port, timeout=self.timeout), parts.path.rstrip("/") + _PATH


def _answer_in(content: bytes, url: str) -> Reply:
    """`choices[0].message.content`, and why it ends there."""
    mend = "give the address of an OpenAI-compatible API, up to and including /v1"
    try:
        data: Any = json.loads(content)
    except (ValueError, RecursionError):
        shown = content[:_SHOWN].decode(errors="replace")
        raise EndpointError(url, f"answered with something that is not JSON ({shown!r})", mend) from None
    try:
        choice = data["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise EndpointError(url, "answered without choices[0].message.content", mend) from None
    if text is not None and not isinstance(text, str):
        raise EndpointError(url, f"answered with a {type(text).__name__} where text belongs", mend)
    reason, usage = choice.get("finish_reason"), data.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Reply(text or "", _ENDED.get(reason) if isinstance(reason, str) else None, _count(tokens))


def _seconds(header: str | None, most: float) -> float:
    """How long a busy server asks to be left alone, within reason."""
    return min(float(header), most) if header and header.strip().isdecimal() else 0.0


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _reason(content: bytes) -> str:
    """What the server says of its refusal, as the tail of a sentence."""
    try:
        error = json.loads(content)["error"]
        return f" ({str(error['message'] if isinstance(error, dict) else error)[:_SHOWN]})"
    except (ValueError, KeyError, TypeError):
        return ""
