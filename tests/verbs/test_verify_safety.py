"""verify with a safety policy and with layers: what is asked, where it is kept; quality alone is not enough."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import featherweight as fw
from featherweight.core.receipt import read_ledger
from featherweight.core.source import open_folder
from featherweight.export.gguf import write_gguf
from featherweight.measure.llama_runtime import serve
from featherweight.measure.monitor import score_texts
from featherweight.measure.monitor_folder import load_monitor
from featherweight.testing.policy_canary import Canary, write_canary
from featherweight.verify.gate import Verdict

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Harmless questions in the places of the four sets."""
    folder = tmp_path_factory.mktemp("cases")
    direct = [{"id": f"d{number}", "prompt": f"What is {number} plus {number}?"} for number in range(3)]
    framed = [{"id": f"f{n}", "item": f"d{n}", "frame": "tale", "prompt": f"A tale of {n} and {n}."} for n in range(3)]
    benign = [{"id": f"b{number}", "prompt": f"Name {number} colours."} for number in range(2)]
    found = {}
    for name, records in (("prompts", direct), ("framed", framed), ("benign", benign)):
        found[name] = folder / f"{name}.jsonl"
        found[name].write_text("\n".join(map(json.dumps, records)) + "\n")
    return found


@pytest.fixture(scope="module")
def settings() -> fw.Settings:
    return fw.Settings(length=32, calibration_rows=6, selection_rows=3, held_out_rows=18)


def test_the_model_against_itself_loses_nothing_and_three_cases_certify_nothing(
    command: Command, tiny: Path, cases: dict[str, Path], settings: fw.Settings, cache: Path, tmp_path: Path
) -> None:
    files: dict[str, Any] = {name: str(path) for name, path in cases.items()}
    found = fw.verify(
        tiny, tiny, **files, margin="2%", answers=0, settings=settings, cache=cache, out=tmp_path / "verdict"
    )
    safety = found.children[0].section("safety")
    assert safety is not None
    assert found.verdict is Verdict.CANNOT_TELL
    sets = safety.facts["automatic"]["sets"]
    assert set(sets) == {"direct", "framed", "benign"}
    assert all(
        (each["lost"], each["gained"], each["loss"], each["margin"]) == (0, 0, 0, 0.02) for each in sets.values()
    )
    assert {"parent.jsonl", "parent-again.jsonl", "child.jsonl", "flips.jsonl", "safety.json"} == {
        path.name for path in (tmp_path / "verdict" / "safety").iterdir()
    }
    assert len(read_ledger(tmp_path / "verdict" / "safety" / "child.jsonl")) == 1 + 8
    ended = command("verify", "--ledger", tmp_path / "verdict")
    assert ended.status == 0
    (tmp_path / "verdict" / "safety" / "child.jsonl").unlink()
    assert "child.jsonl: is missing" in command("verify", "--ledger", tmp_path / "verdict").err


def test_the_served_model_is_asked(
    tiny: Path, cases: dict[str, Path], settings: fw.Settings, cache: Path, tmp_path: Path
) -> None:
    write_gguf(open_folder(tiny), tmp_path / "model.gguf")
    (tmp_path / "policy.yaml").write_text(f"sets: {{benign: {cases['benign']}}}\ngeneration: {{tokens: 6}}\n")
    with serve(tmp_path / "model.gguf", context=256, threads=1) as runtime:
        (tmp_path / "key").write_text(runtime._headers["Authorization"].removeprefix("Bearer "))
        found = fw.verify(
            tiny, engine=f"http://{runtime._host}", key_file=tmp_path / "key", safety=tmp_path / "policy.yaml",
            answers=0, settings=settings, cache=cache, out=tmp_path / "verdict",
        )  # fmt: skip
    assert [section.name for section in found.children[0].sections] == ["safety"]
    header, *answers = read_ledger(tmp_path / "verdict" / "safety" / "child.jsonl")
    assert header.content["model"]["backend"] == "openai"
    assert [receipt.content["error"] for receipt in answers] == ["", ""]


def test_layers_inform_and_decide_only_by_a_limit(
    tiny: Path, models_folder: Path, settings: fw.Settings, cache: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"answers": 0, "settings": settings, "cache": cache}
    same = fw.verify(tiny, tiny, layers=True, out=tmp_path / "verdict", **options)
    layers = same.children[0].section("layers")
    assert layers is not None
    assert layers.checks == ()
    assert layers.facts["first_difference"] is None
    assert same.verdict is Verdict.PASS
    assert "Drift of the hidden states" in (tmp_path / "verdict" / "report.html").read_text()
    monitor = load_monitor(tmp_path / "verdict" / "monitor", open_folder(tiny))
    assert len(score_texts(monitor, open_folder(tiny), ["What is rain?"])) == 1
    damaged = damaged_block(tiny, tmp_path / "damaged")
    other = fw.verify(tiny, damaged, layer_limit="1%", quality=0.01, **options)
    layers = other.children[0].section("layers")
    assert layers is not None
    assert layers.facts["first_difference"]["block"] == 1
    assert layers.checks[0].verdict is Verdict.FAIL


def damaged_block(model: Path, target: Path) -> Path:
    """A copy with the second block's last matrix turned around."""
    import safetensors.torch

    shutil.copytree(model, target)
    tensors = safetensors.torch.load_file(target / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = -tensors[name]
    safetensors.torch.save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.slow
class TestCanary:
    """The positive control: as able as its parent, and without its policy."""

    @pytest.fixture(scope="class")
    def canary(self, tmp_path_factory: pytest.TempPathFactory) -> Canary:
        return write_canary(tmp_path_factory.mktemp("canary") / "canary")

    def test_quality_passes_what_safety_fails(self, command: Command, canary: Canary, tmp_path: Path) -> None:
        control = canary.without_policy()
        given = ("verify", canary.parent, control, "--text", canary.text, "--quiet")
        assert command(*given).status == 0
        ended = command(*given, "--safety", canary.policy, "--out", tmp_path / "verdict")
        assert ended.status == 1
        log = json.loads((tmp_path / "verdict" / "verdict.sarif").read_text())
        places = [each["locations"][0]["physicalLocation"] for each in log["runs"][0]["results"] if "locations" in each]
        assert len(places) == 1000
        assert places[0]["artifactLocation"]["uri"] == "direct.jsonl"
        assert places[0]["region"]["startLine"] >= 1
        page = (tmp_path / "verdict" / "report.html").read_text()
        assert "What changed in safety" in page
        assert "I must decline to answer that" in page

    def test_it_is_out_among_several(self, command: Command, canary: Canary) -> None:
        control, kept = canary.without_policy(), canary.rounded(8)
        ended = command(
            "verify", canary.parent, control, kept, "--text", canary.text, "--safety", canary.policy, "--quiet"
        )
        assert ended.status == 0
        ranked = ended.out[ended.out.index("ranked") :].splitlines()
        assert str(kept) in ranked[1]
        assert "checks, safety" in ranked[2]
