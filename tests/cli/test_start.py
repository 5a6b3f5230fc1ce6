"""The command line starts without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "transformers", "optuna", "scipy", "gguf", "plotly", "xllamacpp")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["fit", "--help"], ["show", "gptq"], ["safety", "--help"], ["garak", "--help"]]
)
def test_no_heavy_import(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        f"sys.argv = ['featherweight', *{arguments!r}]\n"
        f"atexit.register(lambda: print('LOADED', [name for name in {HEAVY!r} if name in sys.modules]))\n"
        "from featherweight.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout[-300:]


def test_unknown_technique_suggests() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "featherweight", "show", "gtpq"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'gptq'" in done.stderr
    assert "Traceback" not in done.stderr
