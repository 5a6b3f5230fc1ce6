"""Runs garak, in an environment of its own, against a model that we serve to it, and reads its report.

garak is never imported: it pins versions of libraries that we cannot share. It is called as `python -m garak` with an
interpreter that has it. Its prompts are its own; none comes with this package.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from featherweight.core.errors import DataError, MissingExtra
from featherweight.measure.answers import Connector, Generation
from featherweight.measure.connectors.bridge import MODEL, Bridge, bridge
from featherweight.measure.garak_report import GarakReport, read_garak

_KEY = "OPENAICOMPATIBLE_API_KEY"
_PREFIX = "run"
_APART = (
    "garak pins another transformers than ours, so give it an environment of its own "
    "(python -m venv garak-env, garak-env/bin/pip install garak) and name it with --python garak-env/bin/python"
)


def run_garak(
    connector: Connector, probes: Sequence[str], generation: Generation, folder: Path, python: Path | None = None,
    generations: int = 1,
) -> GarakReport:  # fmt: skip
    """Puts garak's probes to a model.

    Args:
        connector: the model.
        probes: names as garak knows them, such as "test.Test".
        generation: how answers are drawn.
        folder: an empty folder, where garak's report, hitlog and log are left.
        python: an interpreter with garak; None = ours, if it has it.
        generations: answers a prompt.

    Raises:
        MissingExtra: no interpreter has garak; DataError: garak fails, or leaves no whole report.
    """
    interpreter = garak_python(python)
    with bridge(connector, generation) as served:
        settings = folder / "garak.yaml"
        settings.write_text(yaml.safe_dump(_settings(served, generation, folder, generations)), encoding="utf-8")
        command = [str(interpreter), "-m", "garak", "--config", str(settings), "--probes", ",".join(probes)]
        surroundings = {**os.environ, _KEY: served.key, "XDG_DATA_HOME": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False, cwd=folder)
    report, hitlog = folder / f"{_PREFIX}.report.jsonl", folder / f"{_PREFIX}.hitlog.jsonl"
    if done.returncode != 0 or not report.is_file():
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = said[-1] if said else f"status {done.returncode}"
        raise DataError(f"garak with {','.join(probes)}", f"failed ({reason})", "see `python -m garak --list_probes`")
    return read_garak(report, hitlog if hitlog.is_file() else None)


def garak_python(python: Path | None) -> Path:
    """An interpreter that has garak.

    Raises:
        MissingExtra: the given one has not, or ours has not.
    """
    if python is None:
        if importlib.util.find_spec("garak") is None:
            raise MissingExtra("running garak", "garak", mend=_APART)
        return Path(sys.executable)
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('garak') is None)"
    try:
        found = subprocess.run([str(python), "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        found = False
    if not found:
        raise MissingExtra(f"running garak with {str(python)!r}", "garak", mend=_APART)
    return python.absolute()  # not resolved: a virtual environment's interpreter is a link


def _settings(served: Bridge, generation: Generation, folder: Path, generations: int) -> dict[str, object]:
    options = {
        "uri": served.url, "max_tokens": generation.tokens, "temperature": generation.temperature,
        "top_p": generation.top_p, "stop": [],
    }  # fmt: skip
    return {
        "run": {"generations": generations, "seed": generation.seed},
        "plugins": {
            "target_type": "openai.OpenAICompatible", "target_name": MODEL,
            "generators": {"openai": {"OpenAICompatible": options}},
        },
        "reporting": {"report_dir": str(folder.absolute()), "report_prefix": _PREFIX},
    }  # fmt: skip
