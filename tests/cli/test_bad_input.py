"""Bad input: one sentence with the input, the reason and the mend; exit status 2; nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]


class TestBudget:
    @pytest.mark.parametrize(
        ("option", "value", "reason"),
        [
            ("--memory", "92", "'92': has no unit; use one of B, kB"),
            ("--memory", "92XB", "'92XB': 'XB' is no unit of memory; use one of B, kB"),
            ("--memory", "lots", "'lots': is not a number with a unit; write for example 92MB"),
            ("--memory", "-5MB", "-5MB: must be above zero; give a positive amount"),
            ("--memory", "0MB", "0MB: must be above zero; give a positive amount"),
            ("--memory", "0.1B", "0.1B: must be above zero; give a positive amount"),
            ("--memory", "1e999MB", "'1e999MB': is too large; write for example 92MB"),
            ("--memory", "120%", "120%: is above 100 % of the parent; write for example 45%"),
            ("--memory", "900MB", "900.00 MB: is above the parent itself, which takes"),
            (
                "--resident",
                "50%",
                "'50%': '%' is no unit of memory; use one of B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB.",
            ),
            ("--latency", "30", "'30': has no unit; use one of us"),
            ("--latency", "30MB", "'30MB': 'MB' is no unit of time; use one of us"),
            ("--latency", "-30ms", "-30ms: must be above zero"),
            ("--quality", "850%", "850%: is above 100 % of the parent; write for example 85%"),
            ("--quality", "0%", "0%: must be above zero"),
        ],
    )
    def test_limit(self, refused: Refused, option: str, value: str, reason: str, tiny: Path, tmp_path: Path) -> None:
        said = refused("fit", tiny, option, value, "--out", tmp_path / "out", "--quiet")
        assert f"{option} {reason}" in said

    def test_no_limit(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        said = refused("fit", tiny, "--out", tmp_path / "out")
        assert "budget: sets no limit; give at least one of memory, resident, latency, quality" in said

    def test_number_out_of_range(self, fit: Refused, tiny: Path) -> None:
        assert "budget field 'threads'" in fit(tiny, "--threads", "0")
        assert "budget field 'context'" in fit(tiny, "--context", "1")


class TestText:
    @pytest.mark.parametrize("text", ["", "  \n\n"])
    def test_empty(self, fit: Refused, tiny: Path, tmp_path: Path, text: str) -> None:
        path = tmp_path / "text.txt"
        path.write_text(text)
        assert f"{path}: is empty; give a file with text" in fit(tiny, "--text", path)

    def test_too_short(self, fit: Refused, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "text.txt"
        path.write_text("A few words.\n" * 5)
        said = fit(tiny, "--text", path)
        assert f"{path} (calibration part): is too short: 0 tokens do not make 2 rows of 256" in said
        assert "give at least 3072 tokens in all" in said

    def test_missing(self, fit: Refused, tiny: Path) -> None:
        assert "text 'nowhere.txt': does not exist; give a .txt or .jsonl file" in fit(tiny, "--text", "nowhere.txt")

    def test_line_without_text(self, fit: Refused, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "text.jsonl"
        path.write_text('{"text": "fine"}\n{"txet": "not"}\n')
        said = fit(tiny, "--text", path)
        assert f"{path} line 2: has neither 'text' nor 'messages'; write one JSON object a line" in said


class TestRecipe:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("steps: [gtpq]", "technique 'gtpq': is unknown; did you mean 'gptq'"),
            ("steps:\n- gptq: {dampign: 0.1}", "field 'dampign' of gptq: is unknown; did you mean 'damping'"),
            ("steps:\n- depth: {drop: -1}", "depth.drop = -1: "),
            ("steps: [depth", "is not valid YAML"),
            ("step: [rtn]", "has no list called 'steps'; write `steps:`"),
        ],
    )
    def test_wrong(self, refused: Refused, text: str, says: str, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        assert says in refused("apply", path, tiny, "--out", tmp_path / "out", "--quiet")

    def test_missing(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        said = refused("apply", "nowhere.yaml", tiny, "--out", tmp_path / "out")
        assert "nowhere.yaml: does not exist; give the path of a recipe in YAML" in said


class TestRun:
    def test_output_exists(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "mine").write_text("keep this")
        for path in (out, out / "mine"):
            said = refused("fit", tiny, "--memory", "60%", "--out", path)
            assert f"{path}: exists already; choose another folder, or add --resume" in said

    def test_nothing_to_resume(self, fit: Refused, tiny: Path, tmp_path: Path) -> None:
        said = fit(tiny, "--resume")
        assert f"{tmp_path / 'runs' / 'out'}: holds no run to resume; leave --resume out to start one" in said

    def test_nothing_to_reuse(self, fit: Refused, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        expected = f"--reuse {tmp_path}: holds no measurements of an earlier run; give the folder that fit wrote"
        assert expected in fit(tiny, "--reuse", tmp_path)
        assert expected in refused("plan", tiny, "--memory", "60%", "--reuse", tmp_path)

    def test_unknown_format(self, fit: Refused, tiny: Path) -> None:
        assert "--format 'ggfu': is no export format; did you mean 'gguf'?" in fit(tiny, "--format", "ggfu")

    def test_device_that_is_not_here(self, fit: Refused, tiny: Path) -> None:
        assert "--device 'tpu': is no device of this machine; use cpu" in fit(tiny, "--device", "tpu")

    def test_no_finished_run(self, refused: Refused, tmp_path: Path) -> None:
        assert f"{tmp_path}: holds no finished run; give the folder" in refused("report", tmp_path)
        assert f"{tmp_path}: has no ledger; give the folder" in refused("verify", "--ledger", tmp_path)

    def test_half_a_comparison(self, refused: Refused, tiny: Path) -> None:
        assert "verify: needs a parent and a child; or give a run with --ledger" in refused("verify", tiny)

    def test_from_a_shell(self, tmp_path: Path) -> None:
        """The same through the installed entry point: a sentence and no traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "featherweight", "fit", "nowhere", "--memory", "60%", "--out", "out"],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("featherweight: nowhere: does not exist")
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []


class TestGraft:
    @pytest.fixture
    def labels(self, tmp_path: Path) -> Path:
        path = tmp_path / "labels.jsonl"
        path.write_text("\n".join(f'{{"text": "text {i}", "label": "{i % 2}"}}' for i in range(40)))
        return path

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--layers", "1,9"), "layer 9: is none of the donor's; use some of 1, 2"),
            (("--layers", "1,x"), "--layers '1,x': is no list of numbers; write for example 4,8,12."),
            (("--layers", ""), "graft.layers: are none; name some, or leave them to be chosen."),
            (("--pool", "median"), "graft.pool = 'median': input should be 'mean', 'last' or 'first'"),
            (("--deepest", "2"), "graft.deepest = 2.0: input should be less than or equal to 1"),
            (("--device", "abacus"), "--device 'abacus': is no device of this machine"),
        ],
    )
    def test_option(
        self, refused: Refused, tiny: Path, labels: Path, tmp_path: Path, options: tuple[str, str], says: str
    ) -> None:
        said = refused("graft", tiny, "--data", labels, "--out", tmp_path / "out", "--quiet", *options)
        assert says in said

    @pytest.mark.parametrize(
        ("lines", "says"),
        [
            ("", "is empty; give lines such as"),
            ('{"text": "a"}', "line 1: has no 'label'"),
            ("\n".join(f'{{"text": "{i}", "label": "a"}}' for i in range(20)), "has one class only, 'a'; give inputs"),
        ],
    )
    def test_labels(self, refused: Refused, tiny: Path, tmp_path: Path, lines: str, says: str) -> None:
        path = tmp_path / "labels.jsonl"
        path.write_text(lines)
        assert says in refused("graft", tiny, "--data", path, "--out", tmp_path / "out", "--quiet")

    def test_folder_exists(self, refused: Refused, tiny: Path, labels: Path, tmp_path: Path) -> None:
        assert f"{tmp_path}: exists already" in refused("graft", tiny, "--data", labels, "--out", tmp_path)

    def test_no_donor(self, refused: Refused, labels: Path, tmp_path: Path) -> None:
        said = refused("graft", tmp_path / "nowhere", "--data", labels, "--out", tmp_path / "out")
        assert "nowhere: does not exist; give a model folder" in said
