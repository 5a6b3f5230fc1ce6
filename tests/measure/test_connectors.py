"""Connectors: real models and a real server; one answer a conversation, whatever goes wrong, and the same one again."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_server import ChatServer, Drop, Hang, Reset, Trickle
from featherweight.core.endpoint import Endpoint
from featherweight.core.errors import CheckpointError, EndpointError
from featherweight.core.receipt import Ledger
from featherweight.core.source import open_folder
from featherweight.export.gguf import as_stored, write_gguf
from featherweight.measure.answers import Answer, Connector, Generation
from featherweight.measure.connectors.connect import connect, gguf_of
from featherweight.measure.connectors.facts import lineage_of
from featherweight.measure.connectors.hugging_face import HuggingFaceConnector
from featherweight.measure.connectors.openai import GIVE_UP, OpenAIConnector
from featherweight.measure.connectors.seeds import seed_of
from featherweight.testing.tiny import write_json
from featherweight.verbs.fit import FitResult

ASKED = [[{"role": "user", "content": f"What of {'the town of ' * index}t{index}?"}] for index in range(5)]
TOO_LONG = [{"role": "user", "content": "word " * 600}]
GREEDY, DRAWN = Generation(6), Generation(6, temperature=1.0, seed=3, batch=2)


def texts(connector: Connector, conversations: Sequence[Any] = ASKED, generation: Generation = GREEDY) -> list[str]:
    answers = list(connector.answers(conversations, generation))
    assert len(answers) == len(conversations)
    return [answer.text for answer in answers]


@pytest.fixture(scope="module")
def local(tiny: Path) -> HuggingFaceConnector:
    return HuggingFaceConnector(open_folder(tiny))


@pytest.fixture(scope="module")
def rounded(tiny: Path) -> HuggingFaceConnector:
    """The model with the weights that its GGUF file holds."""
    return HuggingFaceConnector(as_stored(open_folder(tiny)))


class TestLocal:
    def test_greedy_answers_are_those_of_transformers(self, local: HuggingFaceConnector) -> None:
        model = local.model
        module, tokenizer = model.module(), model.tokenizer
        for conversation, found in zip(ASKED, local.answers(ASKED, GREEDY), strict=True):
            ids = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_tensors="pt")[
                "input_ids"
            ]
            whole = module.generate(ids, do_sample=False, max_new_tokens=6, pad_token_id=tokenizer.pad_token_id)
            assert found.text == tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
            assert (found.error, found.tokens) == ("", len(whole[0]) - ids.shape[1])

    def test_draws_depend_on_seed_and_batch_and_not_on_the_place(self, local: HuggingFaceConnector) -> None:
        whole = texts(local, generation=DRAWN)
        assert texts(local, generation=DRAWN) == whole
        assert texts(local, ASKED[2:], DRAWN) == whole[2:]
        assert texts(local, generation=Generation(6, temperature=1.0, seed=4, batch=2)) != whole

    def test_conversations_that_do_not_fit_get_an_error(self, local: HuggingFaceConnector) -> None:
        answers = list(local.answers([ASKED[0], TOO_LONG, ASKED[1]], GREEDY))
        assert [bool(answer.error) for answer in answers] == [False, True, False]
        assert "and 6 to draw do not fit the model's context of 512" in answers[1].error
        assert [answers[0].text, answers[2].text] == texts(local, ASKED[:2])

    def test_a_turn_that_ends(self, local: HuggingFaceConnector, tiny: Path, tmp_path: Path) -> None:
        first = next(local.answers(ASKED[:1], GREEDY))
        assert first.ended is False
        copy = shutil.copytree(tiny, tmp_path / "copy")
        ids = local.model.tokenizer.apply_chat_template(ASKED[0], add_generation_prompt=True)["input_ids"]
        with torch.inference_mode():
            token = int(local.model.module()(torch.tensor([ids])).logits[0, -1].argmax())
        write_json(copy / "generation_config.json", {"eos_token_id": [2, token]})
        ended = next(HuggingFaceConnector(open_folder(copy)).answers(ASKED[:1], GREEDY))
        assert (ended.ended, ended.tokens) == (True, 1)

    def test_a_template_that_refuses_costs_one_case(self, tiny: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(tiny, tmp_path / "copy")
        template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        whole = template + open_folder(tiny).tokenizer.chat_template
        (copy / "chat_template.jinja").write_text(whole)
        system = [{"role": "system", "content": "Be short."}, *ASKED[0]]
        answers = list(HuggingFaceConnector(open_folder(copy)).answers([ASKED[0], system], GREEDY))
        assert answers[1].error == "the chat template refuses the conversation: no system here"
        assert answers[0].error == ""

    def test_a_module_that_breaks_is_an_error_for_each(self, tiny: Path) -> None:
        connector = HuggingFaceConnector(open_folder(tiny))
        connector._module.lm_head.weight = torch.nn.Parameter(torch.zeros(3, 5))
        answers = list(connector.answers([*ASKED, TOO_LONG], GREEDY))
        assert len(answers) == 6
        assert all(answer.error for answer in answers)

    def test_a_model_without_a_template_goes_on_with_the_text(self, tiny: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(tiny, tmp_path / "copy")
        (copy / "chat_template.jinja").unlink()
        connector = HuggingFaceConnector(open_folder(copy))
        assert connector.facts["template"] == ""
        ids = torch.tensor([connector.model.tokenizer("What of t0?")["input_ids"]])
        whole = connector.model.module().generate(ids, do_sample=False, max_new_tokens=6, pad_token_id=2)
        expected = connector.model.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert texts(connector, ASKED[:1]) == [expected]

    def test_facts(self, local: HuggingFaceConnector, tiny: Path) -> None:
        facts = json.loads(json.dumps(local.facts))
        assert facts["fingerprint"] == open_folder(tiny).fingerprint
        assert facts["formats"] == {"F32": 21}
        assert len(facts["template"]) == 64
        assert {"torch", "transformers", "featherweight"} <= set(facts["versions"])
        assert str(tiny) not in json.dumps(facts)


class TestLlama:
    def test_the_file_and_the_folder_agree(self, rounded: HuggingFaceConnector, tiny_gguf: Path) -> None:
        with connect(tiny_gguf, threads=1) as connector:
            assert texts(connector) == texts(rounded)
            assert connector.facts["template"] == rounded.facts["template"]
            assert connector.facts["backend"] == "llama.cpp"
            assert sum(connector.facts["formats"].values()) == 21
            assert str(tiny_gguf) not in json.dumps(connector.facts)
            again = texts(connector, generation=DRAWN)
            assert texts(connector, generation=DRAWN) == again
            assert texts(connector, ASKED[2:], DRAWN) == again[2:]

    def test_a_conversation_that_does_not_fit(self, tiny_gguf: Path) -> None:
        with connect(tiny_gguf, threads=1, context=128) as connector:
            answers = list(connector.answers([ASKED[0], TOO_LONG, ASKED[1]], GREEDY))
        assert [bool(answer.error) for answer in answers] == [False, True, False]
        assert "exceeds the available context size" in answers[1].error
        assert str(tiny_gguf) not in answers[1].error

    def test_a_file_without_a_template(self, tiny: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(tiny, tmp_path / "copy")
        (copy / "chat_template.jinja").unlink()
        write_gguf(open_folder(copy), tmp_path / "model.gguf")
        with connect(tmp_path / "model.gguf", threads=1) as connector:
            assert connector.facts["template"] == ""
            assert texts(connector, ASKED[:2]) == texts(HuggingFaceConnector(as_stored(open_folder(copy))), ASKED[:2])


class TestConnect:
    def test_a_gguf_file_can_go_through_transformers(self, tiny_gguf: Path, rounded: HuggingFaceConnector) -> None:
        with connect(tiny_gguf, backend="transformers") as connector:
            assert connector.facts["backend"] == "transformers"
            assert texts(connector) == texts(rounded)

    def test_a_folder_through_llama_cpp_is_refused(self, tiny: Path) -> None:
        with pytest.raises(CheckpointError, match="holds no GGUF file"), connect(tiny, backend="llama.cpp"):
            pass

    def test_what_is_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="does not exist"), connect(tmp_path / "none.gguf"):
            pass
        (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
        with pytest.raises(CheckpointError, match=r"cannot be loaded by llama\.cpp"), connect(tmp_path / "bad.gguf"):
            pass

    def test_an_exported_model_knows_its_steps(self, fitted: FitResult, tmp_path: Path) -> None:
        final = fitted.folder / "final"
        found = gguf_of(final)
        assert found is not None
        with connect(final, threads=1) as connector:
            steps = connector.facts["lineage"]
            assert [each["receipt"] for each in steps] == [each["hash"] for each in fitted.facts["ledger"]]
            assert steps[-1]["step"] == "export"
        with connect(final, backend="transformers") as connector:
            assert connector.facts["lineage"] == steps
        shutil.copy(final / "ledger.jsonl", tmp_path)
        assert lineage_of(tmp_path / "another.gguf", "0" * 64) == []
        assert lineage_of(tmp_path / "none" / "another.gguf", "0" * 64) == []


def served(answer: Any, conversations: Sequence[Any] = ASKED, **changes: Any) -> list[Answer]:
    with ChatServer(answer).running() as server:
        endpoint = Endpoint(server.url, "m", **{"timeout": 30.0, "attempts": 1, "pause": 0.0, **changes})
        return list(OpenAIConnector(endpoint).answers(conversations, Generation(6, batch=2)))


class TestServer:
    def test_answers_come_in_order_with_a_seed_of_their_own(self) -> None:
        with ChatServer(lambda body: f"{body['messages'][0]['content']} {body['seed']}").running() as server:
            with connect(server.url.removesuffix("/v1"), served="m") as connector:
                found = texts(connector, generation=DRAWN)
            assert found == [f"{each[0]['content']} {seed_of(3, [each])}" for each in ASKED]
            assert {body["model"] for body in server.asked} == {"m"}
            assert {(body["temperature"], body["max_tokens"]) for body in server.asked} == {(1.0, 6)}
            assert connector.facts == {
                "backend": "openai", "url": server.url, "model": "m", "versions": connector.facts["versions"],
            }  # fmt: skip

    def test_a_batch_is_so_many_requests_under_way(self) -> None:
        together = threading.Barrier(4, timeout=5)

        def wait(body: Any) -> str:
            together.wait()
            return "Yes."

        with ChatServer(wait).running() as server, connect(server.url) as connector:
            assert texts(connector, ASKED[:4], Generation(6, batch=4)) == ["Yes."] * 4

    @pytest.mark.parametrize(
        ("failure", "says"),
        [
            (Hang(), "did not answer within 1.5 s"),
            (Trickle(), "had not finished its answer after 1.5 s"),
            (Drop(), "broke off its answer"),
            (Reset(), "broke off its answer"),
            ((500, b"{}"), "answered with status 500"),
            ((404, b"{}"), "refused the request with status 404"),
            ((200, b"<html>"), "something that is not JSON"),
            ((200, b"[" * 10**5), "something that is not JSON"),
            ((200, b"{}"), "without choices[0].message.content"),
        ],
        ids=["hangs", "trickles", "drops", "resets", "500", "404", "html", "deep", "no choice"],
    )
    def test_one_failure_is_one_error(self, failure: Any, says: str) -> None:
        def answer(body: Any) -> Any:
            return failure if body["messages"] == ASKED[1] else "Yes."

        patience = {"timeout": 1.5, "limit": 1.5} if isinstance(failure, (Hang, Trickle)) else {}
        answers = served(answer, **patience)
        assert [each.text for each in answers] == ["Yes.", "", "Yes.", "Yes.", "Yes."]
        assert says in answers[1].error

    def test_a_server_that_went_away_is_soon_left_alone(self) -> None:
        asked = [[{"role": "user", "content": str(index)}] for index in range(40)]
        answers = served(lambda body: Reset() if int(body["messages"][0]["content"]) >= 3 else "Yes.", asked)
        assert len(answers) == 40
        assert [each.text for each in answers[:3]] == ["Yes."] * 3
        assert all(each.error for each in answers[3:])
        given_up = [each for each in answers if each.error.startswith("not asked: ")]
        assert len(given_up) >= 40 - 3 - GIVE_UP - 2
        assert f"gave no answer {GIVE_UP} times in a row" in given_up[0].error

    def test_a_server_that_refuses_every_case_is_asked_every_time(self) -> None:
        asked = [[{"role": "user", "content": str(index)}] for index in range(20)]
        answers = served(lambda body: (400, b'{"error": "too long"}'), asked)
        assert all("status 400 (too long)" in each.error for each in answers)

    def test_nobody_there_is_said_before_the_first_case(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EndpointError, match=r"/v1: cannot be reached \(Connection refused\)"), connect(url):
            pass

    def test_what_the_server_says_of_the_end(self) -> None:
        choice = {"message": {"content": "So"}, "finish_reason": "length"}
        content = json.dumps({"choices": [choice], "usage": {"completion_tokens": 6}}).encode()
        assert served(lambda body: (200, content), ASKED[:1])[0].ended is False

    def test_a_slow_server_is_waited_for(self) -> None:
        def slow(body: Any) -> str:
            threading.Event().wait(0.2)
            return "Yes."

        assert [each.text for each in served(slow, ASKED[:2], timeout=5.0)] == ["Yes."] * 2


def test_a_changed_ledger_is_no_lineage(fitted: FitResult, tmp_path: Path) -> None:
    from featherweight.core.errors import LedgerError

    shutil.copytree(fitted.folder / "final", tmp_path / "final")
    path = tmp_path / "final" / "ledger.jsonl"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(LedgerError):
        lineage_of(tmp_path / "final", "x")
    assert len(Ledger(fitted.folder / "final" / "ledger.jsonl")) > 0
