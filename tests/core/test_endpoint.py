"""The endpoint client against a real server on a loopback port: what it sends, and every way in which it may fail."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from chat_server import ChatServer, Drop, Hang, Reset, Trickle
from featherweight.core.endpoint import Endpoint, Reply
from featherweight.core.errors import EndpointError
from featherweight.core.run import Run
from featherweight.core.sampling import Draw
from featherweight.core.writers import EndpointWriter

ASKED = [{"role": "user", "content": "Why?"}]


def endpoint(server: ChatServer, **changes: Any) -> Endpoint:
    return Endpoint(server.url, "sibling", **{"timeout": 5.0, "pause": 0.0, **changes})


def test_what_is_sent_and_what_comes_back() -> None:
    with ChatServer(lambda body: "Because.").running() as server:
        assert endpoint(server, key="secret").reply(ASKED, 12, Draw(0.7, 0.9), 5) == "Because."
        assert server.asked == [{
            "model": "sibling", "messages": ASKED, "max_tokens": 12, "temperature": 0.7, "top_p": 0.9, "seed": 5,
        }]  # fmt: skip
        assert server.paths == ["/v1/chat/completions"]
        assert server.headers[0]["Authorization"] == "Bearer secret"


def test_a_key_is_never_shown() -> None:
    assert "secret" not in repr(Endpoint("http://localhost/v1", key="secret"))


def test_an_answer_without_text_is_empty() -> None:
    with ChatServer(lambda body: None).running() as server:
        assert endpoint(server).reply(ASKED, 1, Draw(), 0) == ""


@pytest.mark.parametrize("failure", [Drop(), Reset(), (503, b"busy"), (429, b"{}")])
def test_what_may_pass_is_tried_again(failure: Any) -> None:
    answers = iter([failure, failure, "At last."])
    with ChatServer(lambda body: next(answers)).running() as server:
        assert endpoint(server).reply(ASKED, 1, Draw(), 0) == "At last."
        assert len(server.asked) == 3


def test_a_busy_server_is_left_alone_as_long_as_it_asks() -> None:
    answers = iter([(429, b"{}", {"Retry-After": "1"}), "At last."])
    started = time.monotonic()
    with ChatServer(lambda body: next(answers)).running() as server:
        assert endpoint(server, attempts=2).reply(ASKED, 1, Draw(), 0) == "At last."
    assert time.monotonic() - started >= 1
    for asked_for in ("soon", "", "-1"):
        answers = iter([(503, b"{}", {"Retry-After": asked_for}), "At last."])
        with ChatServer(lambda body: next(answers)).running() as server:  # noqa: B023
            assert endpoint(server, attempts=2).reply(ASKED, 1, Draw(), 0) == "At last."


@pytest.mark.parametrize(
    ("answer", "says", "requests"),
    [
        (Hang(), "did not answer within 0.2 s at each of 2 attempts", 2),
        (Trickle(), "had not finished its answer after 0.3 s at each of 2 attempts", 2),
        (Drop(), "broke off its answer at each of 2 attempts", 2),
        (Reset(), "broke off its answer at each of 2 attempts", 2),
        ((500, b'{"error": {"message": "out of memory"}}'), "answered with status 500 (out of memory) at each of 2", 2),
        ((401, b'{"error": {"message": "no such key"}}'), "refused the request with status 401 (no such key)", 1),
        ((404, b"<html>"), "refused the request with status 404; check the address", 1),
        ((200, b"<html>hello</html>"), "is not JSON ('<html>hello</html>')", 1),
        ((200, b"\xff\xfe{"), "is not JSON", 1),
        ((200, b'{"choices": []}'), "without choices[0].message.content", 1),
        ((200, b"[]"), "without choices[0].message.content", 1),
        ((200, b'{"choices": [{"message": {"content": [1]}}]}'), "answered with a list where text belongs", 1),
    ],
    ids=[
        "hangs",
        "trickles",
        "drops",
        "resets",
        "500",
        "401",
        "404",
        "html",
        "bytes",
        "no choice",
        "a list",
        "no text",
    ],
)
def test_every_failure_says_what_it_was(answer: Any, says: str, requests: int) -> None:
    with ChatServer(lambda body: answer).running() as server:
        timeout, limit = 0.2 if isinstance(answer, Hang) else 30.0, 0.3 if isinstance(answer, Trickle) else 30.0
        with pytest.raises(EndpointError) as raised:
            endpoint(server, timeout=timeout, limit=limit, attempts=2).reply(ASKED, 1, Draw(), 0)
        assert says in str(raised.value)
        assert server.url in str(raised.value)
        assert len(server.asked) == requests


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    for ask in (Endpoint(url).require_reachable, lambda: Endpoint(url).reply(ASKED, 1, Draw(), 0)):
        with pytest.raises(EndpointError, match=r"cannot be reached \(Connection refused\); start the server"):
            ask()


def test_somebody_is_there() -> None:
    with ChatServer(lambda body: (500, b"")).running() as server:
        endpoint(server).require_reachable()
        assert server.asked == []


@pytest.mark.parametrize(("reason", "ended"), [("stop", True), ("length", False), ("content_filter", None), (3, None)])
def test_why_an_answer_ends(reason: Any, ended: bool | None) -> None:
    choice = {"message": {"content": "So."}, "finish_reason": reason}
    content = json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode()
    with ChatServer(lambda body: (200, content)).running() as server:
        assert endpoint(server).completion(ASKED, 1, Draw(), 0) == Reply("So.", ended, 3)


@pytest.mark.parametrize("url", ["http://", "http://host:port/v1", "https:///v1", "ftp://host/v1"])
def test_no_address(url: str) -> None:
    with pytest.raises(EndpointError, match="is no address of a server; write for example"):
        Endpoint(url).reply(ASKED, 1, Draw(), 0)


def test_answers_keep_the_order_of_the_questions_and_seeds_differ() -> None:
    questions = [f"Question {index}" for index in range(20)]
    with ChatServer(lambda body: body["messages"][0]["content"] + f" with seed {body['seed']}").running() as server:
        writer = EndpointWriter(endpoint(server))
        answers = writer.write(questions, 5, Draw(), Run(seed=3), "test")
        assert [each.split(" with")[0] for each in answers] == questions
        assert len({body["seed"] for body in server.asked}) == 20
        assert writer.write(questions, 5, Draw(), Run(seed=3), "test") == answers
        assert writer.write(questions, 5, Draw(), Run(seed=4), "test") != answers


def test_after_an_error_nothing_more_is_asked() -> None:
    with ChatServer(lambda body: (400, b"{}")).running() as server:
        with pytest.raises(EndpointError):
            EndpointWriter(endpoint(server)).write(["?"] * 200, 5, Draw(), Run(), "test")
        assert len(server.asked) < 50
