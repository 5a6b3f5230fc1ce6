"""Reports as garak 0.17 writes them, and a small program that stands in for garak where it is not installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Output = tuple[str | None, float | None]
"""An answer, and the score of a detector."""


def message(text: str | None) -> dict[str, Any]:
    return {
        "text": text, "lang": "en", "data_path": None, "data_type": None, "data_checksum": None, "notes": {},
    }  # fmt: skip


def attempt(probe: str, number: int, prompt: str, outputs: Sequence[Output], detector: str) -> list[dict[str, Any]]:
    """An attempt as garak writes it twice: answered, then scored."""
    turns = [{"role": "user", "content": message(prompt)}]
    answered = {
        "entry_type": "attempt", "uuid": f"{probe}-{number}", "seq": number, "status": 1, "probe_classname": probe,
        "probe_params": {}, "targets": [], "prompt": {"turns": turns, "notes": {}},
        "outputs": [None if text is None else message(text) for text, _ in outputs], "detector_results": {},
        "notes": {}, "goal": "see what it says", "conversations": [], "reverse_translation_outputs": [], "intent": None,
    }  # fmt: skip
    return [answered, {**answered, "status": 2, "detector_results": {detector: [score for _, score in outputs]}}]


def evaluation(probe: str, detector: str, scores: Sequence[float | None]) -> dict[str, Any]:
    passed = sum(score is not None and score < 0.5 for score in scores)
    nones = sum(score is None for score in scores)
    return {
        "entry_type": "eval", "probe": probe, "detector": detector, "passed": passed,
        "fails": len(scores) - passed - nones, "nones": nones, "total_evaluated": len(scores) - nones,
        "total_processed": len(scores),
    }  # fmt: skip


def entries(probe: str, outputs: Sequence[Sequence[Output]], detector: str = "always.Some") -> list[dict[str, Any]]:
    """A whole report: one prompt for each list of outputs."""
    setup = {
        "entry_type": "start_run setup", "_config.version": "0.17.1", "run.eval_threshold": 0.5, "run.generations": 1,
        "run.seed": 3, "plugins.target_type": "openai.OpenAICompatible", "plugins.target_name": "m",
    }  # fmt: skip
    lines = [setup, {"entry_type": "init", "garak_version": "0.17.1", "start_time": "then", "run": "r"}]
    for number, each in enumerate(outputs):
        lines += attempt(probe, number, f"Say {number}.", each, detector)
    scores = [score for each in outputs for _, score in each]
    return [*lines, evaluation(probe, detector, scores), {"entry_type": "completion", "end_time": "now", "run": "r"}]


def hits(probe: str, outputs: Sequence[Sequence[Output]], detector: str = "always.Some") -> list[dict[str, Any]]:
    """The hitlog of the same run."""
    return [
        {"attempt_id": f"{probe}-{number}", "attempt_seq": number, "attempt_idx": index, "probe": probe,
         "detector": detector, "score": score, "run_id": "r", "generator": "openai.OpenAICompatible m"}
        for number, each in enumerate(outputs)
        for index, (_, score) in enumerate(each)
        if score is not None and score >= 0.5
    ]  # fmt: skip


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


STAND_IN = '''
"""Takes garak's arguments and settings, asks the server that they name, and writes garak's report."""

import json, os, sys, urllib.request
import yaml
from garak_files import entries, write

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
settings = yaml.safe_load(open(arguments["--config"]))
[probe] = arguments["--probes"].split(",")
if probe != "test.Stand":
    sys.exit("No such probe: " + probe)
options = settings["plugins"]["generators"]["openai"]["OpenAICompatible"]
assert settings["plugins"]["target_type"] == "openai.OpenAICompatible"
urllib.request.urlopen(options["uri"]).read()

def say(number):
    body = {"model": settings["plugins"]["target_name"], "max_tokens": options["max_tokens"],
            "temperature": options["temperature"], "messages": [{"role": "user", "content": f"Say {number}."}]}
    headers = {"Authorization": "Bearer " + os.environ["OPENAICOMPATIBLE_API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(options["uri"] + "/chat/completions", json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]

outputs = [[(say(number), 0.0) for _ in range(settings["run"]["generations"])] for number in range(3)]
target = settings["reporting"]
write(__import__("pathlib").Path(target["report_dir"]) / (target["report_prefix"] + ".report.jsonl"),
      entries(probe, outputs))
'''


def stand_in(folder: Path) -> Path:
    """A package called garak in a folder; put the folder on PYTHONPATH."""
    (folder / "garak").mkdir()
    (folder / "garak" / "__init__.py").touch()
    (folder / "garak" / "__main__.py").write_text(STAND_IN)
    return folder
