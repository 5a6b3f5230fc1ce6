"""verify as a whole: the parent itself, several children, a server and its file, the record that is left."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import featherweight as fw
from chat_server import ChatServer, Drop
from featherweight.core.cases import user_case
from featherweight.core.data import default_documents
from featherweight.core.embedded import packaged_file
from featherweight.core.errors import OutputError
from featherweight.core.receipt import read_ledger
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.export.gguf import write_gguf
from featherweight.measure.answers import Answer
from featherweight.measure.llama_runtime import LlamaRuntime, serve
from featherweight.measure.served_answers import differences
from featherweight.testing.tiny import tiny_model
from featherweight.verbs.fit import FitResult
from featherweight.verbs.verify_wanted import memory_limit_of
from featherweight.verify.gate import Verdict
from featherweight.verify.verification import Verification

Command = Callable[..., Any]
Verify = Callable[..., Verification]
SHORT = {"answers": 3, "answer_tokens": 12}


@pytest.fixture(scope="module")
def verify(cache: Path) -> Verify:
    """verify with little text and short answers."""
    settings = fw.Settings(length=32, calibration_rows=3, selection_rows=3, held_out_rows=18)

    def run(*models: object, **options: Any) -> Verification:
        return fw.verify(*map(str, models), **{"settings": settings, "cache": cache, **SHORT, **options})

    return run


@pytest.fixture(scope="module")
def children(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained model in 8 bits, in 4 bits, and ruined."""
    folder, model = tmp_path_factory.mktemp("children"), open_folder(trained)
    kinds = {"eight": "Q8_0", "four": "Q4_0", "ruined": "int2-channel"}
    for name, kind in kinds.items():
        build("rtn", {"format": kind, "embedding": kind}).apply(model, Run()).save(folder / name)
    return {name: folder / name for name in kinds}


def served_at(runtime: LlamaRuntime, folder: Path) -> dict[str, Any]:
    """Address of a llama.cpp server, and a file with its key."""
    key = folder / "key"
    key.write_text(runtime._headers["Authorization"].removeprefix("Bearer ") + "\n")
    return {"engine": f"http://{runtime._host}", "key_file": key}


class TestItself:
    def test_everything_passes_with_exact_zeros(self, verify: Verify, trained: Path) -> None:
        found = verify(trained, trained, quality=1.0, domain_quality=1.0, kl=0.0, agreement=1.0, tolerance=0)
        assert found.verdict is Verdict.PASS
        [child] = found.children
        assert [section.name for section in child.sections] == ["tokens", "quality", "generation"]
        quality, generation = child.section("quality"), child.section("generation")
        assert quality is not None
        assert generation is not None
        assert {each["kl"] for each in (quality.facts["all"], *quality.facts["domains"].values())} == {0.0}
        assert quality.facts["all"]["ratio_interval"] == [1.0, 1.0]
        assert all(each["new"] == each["gone"] == 0 for each in generation.facts["defects"].values())
        assert all(case["parent"] == case["child"] for case in generation.facts["cases"])


class TestSeveral:
    def test_what_fails_is_out_and_the_rest_is_ranked(
        self, verify: Verify, trained: Path, children: dict[str, Path]
    ) -> None:
        eight, four, ruined = (str(children[name]) for name in ("eight", "four", "ruined"))
        found = verify(trained, eight, four, ruined, quality=0.9, tolerance=0.9)
        assert found.verdict is Verdict.PASS
        assert found.ranking is not None
        assert {name for name, _ in found.ranking.ranked} == {eight, four}
        assert set(found.ranking.vetoed) == {ruined}
        assert {"checks", "quality"} <= set(found.ranking.vetoed[ruined])

    def test_a_limit_of_bytes_is_a_veto_too(self, verify: Verify, trained: Path, children: dict[str, Path]) -> None:
        eight, four = children["eight"], children["four"]
        sizes = {name: (children[name] / "model.safetensors").stat().st_size for name in ("eight", "four")}
        found = verify(trained, eight, four, quality=0.5, tolerance=0.9, memory=sizes["four"])
        assert found.ranking is not None
        assert found.ranking.best == str(four)
        assert "bytes" in found.ranking.vetoed[str(eight)]
        [check] = found.children[0].section("bytes").checks  # type: ignore[union-attr]
        assert check.reason == f"{sizes['eight'] - sizes['four']} bytes over"

    def test_scores_do_not_depend_on_the_others(self, verify: Verify, trained: Path, children: dict[str, Path]) -> None:
        options: dict[str, Any] = {"quality": 0.9, "answers": 0}
        two = verify(trained, children["eight"], children["four"], **options)
        three = verify(trained, children["four"], children["ruined"], children["eight"], **options)
        assert two.ranking is not None
        assert three.ranking is not None
        assert dict(two.ranking.ranked) == dict(three.ranking.ranked)

    def test_none_is_acceptable(self, command: Command, trained: Path, children: dict[str, Path], tiny: Path) -> None:
        ended = command("verify", trained, children["ruined"], tiny, "--answers", "0", "--quiet")
        assert ended.status == 1
        assert "No child is acceptable." in ended.out
        assert ended.out.rstrip().endswith("fail")


class TestTasks:
    def test_question_by_question(
        self, verify: Verify, trained: Path, children: dict[str, Path], tmp_path: Path
    ) -> None:
        pytest.importorskip("lm_eval", reason="needs the extra: pip install 'featherweight[eval]'")
        options: dict[str, Any] = {"tasks": ["python-docs"], "task_limit": 20, "answers": 0, "quality": 0.5}
        same = verify(trained, trained, **options).children[0].section("tasks")
        assert same is not None
        assert same.verdict is Verdict.PASS
        assert same.facts["scores"][0]["gain_interval"] == [0, 0]
        found = verify(trained, children["four"], out=tmp_path / "verdict", **options).children[0].section("tasks")
        assert found is not None
        assert found.facts["scores"][0]["questions"] == 20
        assert found.verdict is not Verdict.PASS  # 20 questions cannot show that two points were kept
        assert "<h2>Tasks</h2>" in (tmp_path / "verdict" / "report.html").read_text()


class TestRuns:
    """A model that fit made is held to the budget that it was made for."""

    def test_bytes(self, command: Command, trained: Path, fitted: FitResult) -> None:
        ended = command("verify", trained, fitted.folder / "final", "--quality", "1%", "--answers", "0", "--quiet")
        assert ended.status == 0, ended
        assert re.search(r"bytes: \d+ bytes to spare", ended.out)

    def test_limits(self, fitted: FitResult, tmp_path: Path) -> None:
        limit = fitted.facts["limits"]["memory"]
        assert (
            memory_limit_of(fitted.folder / "final") == memory_limit_of(fitted.folder / "final" / "model.gguf") == limit
        )
        assert memory_limit_of(tmp_path / "final") is None


class TestServed:
    """A random model, whose answers are long, without meaning, and different for every prompt."""

    @pytest.fixture(scope="class")
    def file(self, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("served") / "model.gguf"
        write_gguf(open_folder(tiny), path)
        return path

    @pytest.fixture(scope="class")
    def runtime(self, file: Path) -> Iterator[LlamaRuntime]:
        with serve(file, context=256, threads=1) as runtime:
            yield runtime

    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_a_file_and_its_server_agree(
        self, verify: Verify, tiny: Path, file: Path, runtime: LlamaRuntime, kind: str, tmp_path: Path
    ) -> None:
        """As GGUF in llama.cpp here too, or as the folder that it was exported from, in transformers."""
        found = verify(tiny, {"file": file, "folder": tiny}[kind], tolerance=0.9, **served_at(runtime, tmp_path))
        [child] = found.children
        names = [section.name for section in child.sections]
        assert names == ["tokens", "quality", "generation", "generation, file", "served"]
        served = child.section("served")
        assert served is not None
        assert (served.facts["both"], served.verdict) == (3, Verdict.PASS), served
        texts = [
            [case["child"]["text"].strip() for case in child.section(name).facts["cases"]]  # type: ignore[union-attr]
            for name in ("generation", "generation, file")
        ]
        assert sum(one == other for one, other in zip(*texts, strict=True)) == served.facts["same"] >= 2
        assert all(texts[0])

    def test_a_server_of_another_model_is_found_out(
        self, verify: Verify, models_folder: Path, runtime: LlamaRuntime, tmp_path: Path
    ) -> None:
        other = tiny_model(models_folder, seed=7)
        found = verify(other, other, **served_at(runtime, tmp_path))
        served = found.children[0].section("served")
        assert served is not None
        assert served.verdict is Verdict.FAIL
        assert "this is not what the file answers" in served.checks[0].reason
        assert len(served.facts["differences"]) == 3

    def test_without_a_file(self, verify: Verify, tiny: Path, runtime: LlamaRuntime, tmp_path: Path) -> None:
        where = served_at(runtime, tmp_path)
        found = verify(tiny, tolerance=0.9, **where)
        [child] = found.children
        assert child.name == where["engine"]
        assert [section.name for section in child.sections] == ["generation"]
        assert child.facts["served"]["url"] == where["engine"] + "/v1"
        assert where["key_file"].read_text().strip() not in json.dumps(found.to_dict())

    def test_a_parent_that_is_served_too(
        self, verify: Verify, tiny: Path, runtime: LlamaRuntime, tmp_path: Path
    ) -> None:
        where = served_at(runtime, tmp_path)
        found = verify(tiny, parent_engine=where["engine"], tolerance=0, **where)
        assert found.verdict is Verdict.PASS
        facts = found.children[0].sections[0].facts
        assert all(case["parent"]["text"] == case["child"]["text"] for case in facts["cases"])

    def test_receipts_are_kept_of_a_server_that_breaks_off(self, verify: Verify, tiny: Path, tmp_path: Path) -> None:
        with ChatServer(lambda body: Drop()).running() as server:
            found = verify(tiny, engine=server.url, answers=1, out=tmp_path / "verdict")
        assert found.verdict is Verdict.CANNOT_TELL
        assert "broke off its answer" in found.checks[0].reason
        receipts = read_ledger(tmp_path / "verdict" / "ledger.jsonl")
        assert [receipt.content.get("section") for receipt in receipts] == ["generation", None]
        page = (tmp_path / "verdict" / "report.html").read_text()
        assert "broke off its answer" in page


class TestRecord:
    """Of a random model and two children, one of which is ruined."""

    @pytest.fixture(scope="class")
    def models(self, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
        folder, model = tmp_path_factory.mktemp("random"), open_folder(tiny)
        for name, kind in (("good", "Q8_0"), ("ruined", "int2-channel")):
            build("rtn", {"format": kind, "embedding": kind}).apply(model, Run()).save(folder / name)
        return [tiny, folder / "good", folder / "ruined"]

    @pytest.fixture(scope="class")
    def folder(self, verify: Verify, models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
        target = tmp_path_factory.mktemp("record") / "verdict"
        verify(*models, kl=0.1, out=target)
        return target

    def test_what_is_there(self, folder: Path) -> None:
        assert {path.name for path in folder.iterdir()} == {
            "verdict.json", "report.html", "junit.xml", "verdict.sarif", "ledger.jsonl"
        }  # fmt: skip
        assert [path.name for path in folder.parent.iterdir()] == ["verdict"]

    def test_the_same_inputs_give_the_same_content(
        self, verify: Verify, models: list[Path], folder: Path, tmp_path: Path
    ) -> None:
        verify(*models, kl=0.1, out=tmp_path / "again")
        one, other = (json.loads((each / "verdict.json").read_text()) for each in (folder, tmp_path / "again"))
        assert one["content"] == other["content"]
        assert (one["digest"], one["receipts"]) == (other["digest"], other["receipts"])
        assert not re.search("seconds|time", json.dumps(one["content"]))
        assert {"time", "seconds", "peak_memory"} <= set(one["volatile"])

    def test_the_ledger_holds_and_ends_where_the_verdict_says(self, command: Command, folder: Path) -> None:
        receipts = read_ledger(folder / "ledger.jsonl")
        verdict = json.loads((folder / "verdict.json").read_text())
        assert receipts[-1].content["content"] == verdict["digest"]
        assert "receipts, the chain holds" in command("verify", "--ledger", folder).out

    def test_a_removed_line_is_named(self, command: Command, folder: Path, tmp_path: Path) -> None:
        lines = (folder / "ledger.jsonl").read_text().splitlines()
        for name, kept in (("middle", [*lines[:2], *lines[3:]]), ("end", lines[:-1])):
            (tmp_path / name).mkdir()
            (tmp_path / name / "verdict.json").write_bytes((folder / "verdict.json").read_bytes())
            (tmp_path / name / "ledger.jsonl").write_text("\n".join(kept) + "\n")
            ended = command("verify", "--ledger", tmp_path / name)
            assert ended.status == 2
            assert re.search(r"ledger\.jsonl line \d+: (does not follow|is missing)", ended.err)

    def test_build_servers_can_read_it(self, folder: Path) -> None:
        checks = sum(
            len(section["checks"])
            for child in json.loads((folder / "verdict.json").read_text())["content"]["children"]
            for section in child["sections"]
        )
        suites = ElementTree.fromstring((folder / "junit.xml").read_text())
        assert suites.get("tests") == str(checks)
        assert int(suites.get("failures", "0")) > 0
        log = json.loads((folder / "verdict.sarif").read_text())
        assert len(log["runs"][0]["results"]) == int(suites.get("failures", "0")) + int(suites.get("errors", "0"))

    def test_the_page_stands_alone(self, folder: Path) -> None:
        page = (folder / "report.html").read_text()
        assert page.count("<h2>Quality by domain</h2>") == 2
        for word in ("Which one", "Every check", "Answers side by side", "ruined", 'id="chart-ranking"'):
            assert word in page
        body = page[page.index("<body>") :]
        assert not re.search(r"(src|href)=[\"']?(https?:)?//", body)
        assert "{{" not in body

    def test_a_folder_that_is_there_is_kept(self, verify: Verify, trained: Path, folder: Path, unchanged: Any) -> None:
        with unchanged(folder), pytest.raises(OutputError, match="exists already"):
            verify(trained, trained, out=folder)


@pytest.mark.slow
@pytest.mark.real
def test_the_packaged_file_and_its_server_agree(smollm: Any, tmp_path: Path) -> None:
    """In llama.cpp on both sides to the letter; against transformers up to near ties."""
    file, options = packaged_file(), {"answers": 4, "answer_tokens": 12, "tolerance": 0.9}
    settings = fw.Settings(length=32, calibration_rows=3, selection_rows=3, held_out_rows=6)
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": each}) for each in default_documents()["prose"][:80]))
    with serve(Path(file), context=512, threads=2) as runtime:
        where = served_at(runtime, tmp_path)
        found = fw.verify("smollm2-135m", file, settings=settings, text=text, **options, **where)
    child = found.children[0]
    served = child.section("served")
    assert served is not None
    assert (served.facts["same"], served.facts["both"]) == (4, 4)
    for name in ("generation", "generation, file"):
        section = child.section(name)
        assert section is not None
        assert section.verdict is Verdict.PASS
    of_folder = differences_from_transformers(smollm, child.section("generation"))
    assert all(each.gap < 1.0 for each in of_folder)


def differences_from_transformers(model: Any, generation: Any) -> list[Any]:
    """Where answers that llama.cpp served part from those that the parent gave in transformers."""
    rows = generation.facts["cases"]
    cases = [user_case(row["id"], row["asked"]) for row in rows]
    parent, served = ([Answer(row[who]["text"]) for row in rows] for who in ("parent", "child"))
    return differences(model, cases, parent, served)
