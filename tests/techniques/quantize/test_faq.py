"""FAQ: identity equals the plain quantizer, data-free ones stay as they are, receipts hold the account, bad seniors."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import yaml

from chat_server import ChatServer
from featherweight.core.errors import DataError, EndpointError, RecipeError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.steps import apply_step
from featherweight.core.store import Store
from featherweight.core.technique import build
from featherweight.techniques.quantize.faq import Faq
from featherweight.testing import check_technique, tiny_run

CALIBRATING = {
    "gptq": {"format": "Q4_0"},
    "awq": {"format": "int4-g64", "steps": 4},
    "imatrix": {"format": "Q4_0"},
    "mixed-precision": {"memory": 0.35, "rows": 4},
}
SHORT: dict[str, Any] = {"instruction": "{sample}", "rounds": 20, "candidates": 2}
Command = Callable[..., Any]
Unchanged = Callable[[Path], Any]
SENTENCES = ("The module returns a list.", "An expression is evaluated first.", "Each name is bound once.")


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return open_folder(trained)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    found = tiny_run(trained)
    found.store = Store(tmp_path / "store")
    return found


def answering(body: dict[str, Any]) -> str:
    """Sentences that depend on the seed asked for."""
    return " ".join(SENTENCES[(int(body["seed"]) >> each) % 3] for each in range(12))


def test_conformance() -> None:
    check_technique(Faq, Faq(settings={"format": "Q4_0"}, normalise=False, candidates=1))


@pytest.mark.parametrize("name", CALIBRATING)
def test_identity_is_the_plain_quantizer(name: str, model: Model, run: Run) -> None:
    plain = build(name, CALIBRATING[name]).apply(model, run)
    identity = Faq(
        quantizer=name, settings=CALIBRATING[name], senior="original", candidates=1, expert="rules", normalise=False
    )
    same = identity.apply(model, run)
    assert same.fingerprint == plain.fingerprint
    assert same.planned == plain.planned


@pytest.mark.parametrize("name", CALIBRATING)
def test_other_text_gives_other_weights(name: str, model: Model, run: Run) -> None:
    plain = build(name, CALIBRATING[name]).apply(model, run)
    changed = Faq(quantizer=name, settings=CALIBRATING[name], **SHORT).apply(model, run)
    assert (changed.fingerprint, changed.planned) != (plain.fingerprint, plain.planned)


def test_rounding_to_nearest_is_not_touched(model: Model, run: Run) -> None:
    plain = build("rtn", {"format": "Q4_0"})
    assert (
        Faq(quantizer="rtn", settings={"format": "Q4_0"}).apply(model, run).fingerprint
        == plain.apply(model, run).fingerprint
    )
    rows = Faq(settings={"format": "Q4_0"}, **SHORT).regenerated(model, run).tokens
    other = dataclasses.replace(run, calibration=rows)
    assert plain.apply(model, other).fingerprint == plain.apply(model, run).fingerprint


def test_one_seed_one_model(model: Model, trained: Path) -> None:
    faq = Faq(settings={"format": "Q4_0"}, **SHORT)
    prints = [faq.apply(model, tiny_run(trained, seed)).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_the_receipt_holds_the_account(model: Model, run: Run, tmp_path: Path) -> None:
    faq = Faq(settings={"format": "Q4_0"}, licence="ours", **SHORT)
    applied = apply_step(faq, model, run, tmp_path / "steps")
    notes = json.loads(json.dumps(applied.content))["notes"]
    account, control = notes["calibration"], notes["self_generated_control"]
    assert account["tokens"] == [run.tokens("").count] * 2
    assert account["digest"][0] == run.tokens("").digest != account["digest"][1]
    assert {each["licence"] for each in account["samples"]} == {"ours"}
    assert all(0 <= each["row"] < 8 for each in account["samples"])
    assert control["tokens"] == run.tokens("").count
    for name in ("original", "regenerated", "own_halves"):
        assert len(control["distance"][name]) == model.architecture.blocks
        assert 0 < control["mean_distance"][name] < 1
    assert control["mean_distance"]["regenerated"] < control["mean_distance"]["original"]
    assert apply_step(faq, model, run, tmp_path / "steps").content == applied.content
    again = apply_step(faq, model, tiny_run(model.folder), None)
    assert again.content["notes"] == applied.content["notes"]


def test_notes_of_one_step_are_not_those_of_the_next(model: Model, run: Run) -> None:
    assert "notes" in apply_step(Faq(quantizer="rtn", settings={"format": "Q4_0"}), model, run, None).content
    assert "notes" not in apply_step(build("rtn", {"format": "Q4_0"}), model, run, None).content


def test_what_was_written_is_not_written_again(model: Model, run: Run) -> None:
    faq = Faq(settings={"format": "Q4_0"}, **SHORT)
    first = faq.apply(model, run).fingerprint
    made = run.store.made
    run.store = Store(run.store.folder)
    assert faq.apply(model, run).fingerprint == first
    assert made > 0
    assert run.store.made == 0


def test_a_sibling_in_a_folder(model: Model, run: Run, trained: Path, tmp_path: Path) -> None:
    sibling = Path(shutil.copytree(trained, tmp_path / "sibling"))
    (sibling / "README.md").write_text("---\nlicense: mit\n---\n")
    Faq(settings={"format": "Q4_0"}, senior=str(sibling), **SHORT).regenerated(model, run)
    sample = run.notes["calibration"]["samples"][0]
    assert (sample["generator"], sample["licence"]) == ("sibling", "mit")


class TestEndpoint:
    def test_writes_and_judges(self, model: Model, run: Run, tmp_path: Path) -> None:
        def answer(body: dict[str, Any]) -> str:
            asked = str(body["messages"][0]["content"])
            if not asked.startswith("Here is a question"):
                return answering(body)
            return str(1 + min(9, asked.count(SENTENCES[0])))

        (tmp_path / "key").write_text("secret\n")
        with ChatServer(answer).running() as server:
            faq = Faq(
                settings={"format": "Q4_0"}, senior=server.url, senior_model="big", key_file=str(tmp_path / "key"),
                expert="judge", **{**SHORT, "candidates": 4},
            )  # fmt: skip
            rows = faq.regenerated(model, run)
            assert {each["model"] for each in server.asked} == {"big"}
            assert {each["Authorization"] for each in server.headers} == {"Bearer secret"}
        scores = [each["score"] for each in rows.samples]
        assert sum(scores) / len(scores) > 1 + 12 / 3  # the best of four has more of what the judge counts
        assert "secret" not in json.dumps(run.notes)
        text = model.tokenizer.decode(rows.tokens.ids[0])
        assert any(sentence[:12] in text for sentence in SENTENCES)

    def test_one_that_writes_nothing(self, model: Model, run: Run) -> None:
        with (
            ChatServer(lambda body: "").running() as server,
            pytest.raises(DataError, match=r"wrote 0 usable tokens of the 384 needed in 2 rounds \(left out: 16 empty"),
        ):
            Faq(settings={"format": "Q4_0"}, senior=server.url, **{**SHORT, "rounds": 2}).apply(model, run)

    def test_one_that_breaks_after_a_while(self, model: Model, run: Run) -> None:
        answers = iter([SENTENCES[0]] * 5)
        with (
            ChatServer(lambda body: next(answers, (400, b'{"error": "quota"}'))).running() as server,
            pytest.raises(EndpointError, match=r"status 400 \(quota\)"),
        ):
            Faq(settings={"format": "Q4_0"}, senior=server.url, **SHORT).apply(model, run)


class TestBadInput:
    @pytest.fixture
    def stranger(self, trained: Path, tmp_path: Path) -> Path:
        """A model that reads text as other tokens."""
        other = Path(shutil.copytree(trained, tmp_path / "stranger"))
        tokenizer = tokenizers.Tokenizer.from_file(str(other / "tokenizer.json"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.save(str(other / "tokenizer.json"))
        return other

    def test_another_family(self, model: Model, run: Run, stranger: Path) -> None:
        with pytest.raises(DataError, match=r"senior stranger: is of another family: .*; choose a sibling"):
            Faq(settings={"format": "Q4_0"}, senior=str(stranger), **SHORT).apply(model, run)
        rows = Faq(settings={"format": "Q4_0"}, senior=str(stranger), family="any", **SHORT).regenerated(model, run)
        assert rows.tokens.count == run.tokens("").count

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"quantizer": "gptqq"}, "technique 'gptqq': is unknown; did you mean 'gptq'"),
            ({"quantizer": "wanda"}, "quantizer = 'wanda': is no quantizer to calibrate"),
            ({"quantizer": "faq"}, "quantizer = 'faq': is no quantizer to calibrate"),
            ({"settings": {"formt": "Q4_0"}}, "field 'formt' of gptq: is unknown; did you mean"),
            ({"instruction": "Go on."}, "instruction: does not say where the sample goes"),
            ({"candidates": 0}, "faq.candidates = 0"),
        ],
    )
    def test_fields(self, fields: dict[str, Any], says: str) -> None:
        with pytest.raises(RecipeError) as raised:
            build("faq", fields)
        assert says in str(raised.value)

    def test_no_key(self, model: Model, run: Run, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="cannot be read; write the key into that file"):
            Faq(
                settings={"format": "Q4_0"}, senior="http://localhost:1/v1", key_file=str(tmp_path / "none")
            ).apply(model, run)  # fmt: skip

    @pytest.mark.parametrize("senior", ["nobody", "endpoint", "nowhere"])
    def test_the_command_writes_nothing(
        self, command: Command, unchanged: Unchanged, trained: Path, tmp_path: Path, senior: str
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with ChatServer(lambda body: (404, b"nothing here")).running() as server:
            name = {"nobody": nobody, "endpoint": server.url, "nowhere": "./no/such/model"}[senior]
            fields = {"settings": {"format": "Q4_0"}, "senior": name, **SHORT}
            recipe = tmp_path / "recipe.yaml"
            recipe.write_text(yaml.safe_dump({"steps": [{"faq": fields}]}))
            text = tmp_path / "text.txt"
            text.write_text("\n".join(f"Line {each} says that {each * each} is a square." for each in range(4000)))
            with unchanged(tmp_path):
                ended = command("apply", recipe, trained, "--out", tmp_path / "run", "--text", text, "--quiet")
        assert ended.status == 2, ended
        says = {"nobody": "cannot be reached", "endpoint": "refused the request", "nowhere": "does not exist"}[senior]
        assert says in ended.err
