"""Model cards say what was measured and nothing else."""

from __future__ import annotations

from pathlib import Path

import yaml

from featherweight.export.card import write_card

FACTS = {
    "name": "Small model",
    "format": "gguf",
    "file": "small.gguf",
    "base_model": "org/parent",
    "license": "apache-2.0",
    "tags": ["q4"],
    "measured": [
        {"quantity": "file", "unit": "bytes", "parent": 270000000, "result": 90000000},
        {"quantity": "perplexity", "parent": 10.0, "result": 11.5},
        {"quantity": "a | b", "parent": None, "result": "none\nseen"},
    ],
    "recipe": "steps:\n  - rtn:\n      format: Q4_0\n",
    "lineage": [{"step": "rtn", "receipt": "abc123"}],
    "notes": ["Low bits hurt small models."],
    "environment": {"torch": "2.13.0"},
}


def test_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    text = write_card(tmp_path, FACTS).read_text(encoding="utf-8")
    matter = yaml.safe_load(text.split("---")[1])
    assert matter["base_model"] == "org/parent"
    assert matter["license"] == "apache-2.0"
    assert matter["library_name"] == "gguf"
    assert matter["tags"] == ["featherweight", "q4"]
    assert "language" not in matter


def test_numbers_parent_against_result(tmp_path: Path) -> None:
    text = write_card(tmp_path, FACTS).read_text(encoding="utf-8")
    assert "| file (bytes) | 270,000,000 | 90,000,000 | 0.333 |" in text
    assert "| perplexity | 10 | 11.5 | 1.150 |" in text
    assert "| a \\| b | not measured | none seen |  |" in text


def test_every_section_has_its_facts(tmp_path: Path) -> None:
    text = write_card(tmp_path, FACTS).read_text(encoding="utf-8")
    for expected in (
        "llama-server -m small.gguf",
        "format: Q4_0",
        "| rtn | `abc123` |",
        "- Low bits",
        "| torch | 2.13.0 |",
    ):
        assert expected in text


def test_what_is_not_known_is_not_written(tmp_path: Path) -> None:
    text = write_card(tmp_path, {"name": "Bare", "format": "hugging-face"}).read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Load it"]
    assert "vllm serve" in text
    assert "license" not in text
