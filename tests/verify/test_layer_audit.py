"""The layer audit judged: names the damaged layer, informs unless a limit is given, says what it cannot compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.layer_models import LABELS, QUICK, convolutional, damaged, damaged_module, samples, tiny_rows

from featherweight.cli.layer_table import layer_rows, layer_sentences, print_layers
from featherweight.core.errors import CheckpointError, DataError, OutputError
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.measure.layer_compare import compare_layers, compare_modules
from featherweight.measure.layer_labels import Labels, row_pair, token_pair
from featherweight.measure.monitor import score_texts
from featherweight.measure.monitor_folder import load_monitor
from featherweight.measure.noise import shaken
from featherweight.report.figures_page import write_page
from featherweight.report.layer_charts import layer_figures
from featherweight.techniques.prune.depth import Depth
from featherweight.techniques.prune.width import Width
from featherweight.testing.tiny import tiny_model, tiny_run, tiny_tokens
from featherweight.verify.gate import Verdict
from featherweight.verify.layer_audit import layers_section, section_of
from featherweight.verify.section import Section


@pytest.fixture(scope="module")
def deep(models_folder: Path) -> Path:
    return tiny_model(models_folder, num_hidden_layers=4)


def audited(folder: Path, *patterns: str, **options: object) -> Section:
    model = open_folder(folder)
    child = damaged(model, *patterns) if patterns else model
    rows = tiny_rows(folder, 10), tiny_rows(folder, 8, 10)
    return layers_section(model, child, *rows, Run(), settings=QUICK, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [0, 2, 3])
def test_the_damaged_block_is_named(deep: Path, block: int) -> None:
    facts = audited(deep, f"model.layers.{block}.*", restore=True).facts
    assert facts["first_difference"]["block"] == block
    assert facts["first_drift"]["block"] == block
    assert facts["first_state"] == f"block {block}"
    assert facts["most"]["name"] == f"block {block}"
    assert facts["most"]["by"] == "restoration"
    assert facts["most"]["share"] == pytest.approx(1)
    assert facts["own_error"]["name"] == f"block {block}"
    drifted = [row["drifted"] for row in facts["rows"]]
    assert not any(drifted[: [row["block"] for row in facts["rows"]].index(block)])


def test_without_restoration_the_added_drift_names_it(deep: Path) -> None:
    facts = audited(deep, "model.layers.1.*").facts
    assert facts["most"] == {"name": "block 1", "by": "added drift", "value": facts["states"][2]["added"]}
    assert facts["restoration"] is None


def test_it_informs_and_decides_nothing_without_a_limit(deep: Path) -> None:
    section = audited(deep, "*")
    assert section.checks == ()
    assert section.verdict is Verdict.PASS
    assert section.name == "layers"


def test_equal_models(deep: Path) -> None:
    section = audited(deep, limit=0.0)
    facts = section.facts
    for name in ("first_difference", "first_drift", "first_state", "most", "own_error"):
        assert facts[name] is None
    assert section.verdict is Verdict.PASS
    assert facts["conformity"]["parent"] == facts["conformity"]["child"]
    assert "no difference at all in what layers say" in layer_sentences(facts)


def test_noise_is_not_drift(deep: Path) -> None:
    """Another draw of bf16's rounding error is different everywhere and beyond noise nowhere."""
    model = open_folder(deep)
    rows = tiny_rows(deep, 10), tiny_rows(deep, 8, 10)
    facts = layers_section(model, shaken(model, 99), *rows, Run(), settings=QUICK).facts
    assert facts["first_difference"] is not None
    assert facts["first_drift"] is None
    assert facts["first_state"] is None
    assert facts["most"] is None


def test_a_limit_decides(deep: Path) -> None:
    model = open_folder(deep)
    rows = tiny_rows(deep, 10), tiny_rows(deep, 8, 10)
    compared = compare_layers(model, damaged(model, "*"), *rows, Run(), QUICK, draws=1)
    largest = max(row["drift"] for row in section_of(compared).facts["rows"])
    verdicts = {limit: section_of(compared, limit).checks[0] for limit in (0.9, 1e-4, largest)}
    assert [check.verdict for check in verdicts.values()] == [Verdict.PASS, Verdict.FAIL, Verdict.CANNOT_TELL]
    assert "places lie above the limit, the first is model.layers." in verdicts[1e-4].reason
    assert "more documents would decide" in verdicts[largest].reason


def test_children_of_other_shapes(deep: Path) -> None:
    model = open_folder(deep)
    rows = tiny_rows(deep, 8), tiny_rows(deep, 4, 8)
    narrow = layers_section(
        model, Width(ffn=0.5).apply(model, tiny_run(deep)), *rows, Run(), settings=QUICK, restore=True
    ).facts
    assert any("4 modules have another shape" in note for note in narrow["notes"])
    assert narrow["conformity"] is None
    assert narrow["restoration"] is not None
    short = layers_section(
        model, Depth(blocks=(1,)).apply(model, tiny_run(deep)), *rows, Run(), settings=QUICK, restore=True, limit=0.1
    )
    assert short.verdict is Verdict.CANNOT_TELL
    assert {row["module"] for row in short.facts["rows"]} == {"prediction"}
    assert any("aligned by CKA" in note for note in short.facts["notes"])
    assert any("no restoration" in note for note in short.facts["notes"])
    for facts in (narrow, short.facts):
        print_layers(facts)
        assert layer_figures(facts)


def test_a_child_of_another_width_is_compared_by_cka(deep: Path, models_folder: Path) -> None:
    model = open_folder(deep)
    other = open_folder(tiny_model(models_folder, num_hidden_layers=4, hidden_size=96))
    section = layers_section(
        model, other, tiny_rows(deep, 8), tiny_rows(deep, 4, 8), Run(), settings=QUICK, restore=True, draws=1
    )
    assert all(state["relative"] is None and 0 <= state["cka"] <= 1 for state in section.facts["states"])
    assert any("another width" in note for note in section.facts["notes"])
    assert any("no restoration" in note for note in section.facts["notes"])
    print_layers(section.facts)
    assert layer_figures(section.facts)


def test_a_child_of_another_vocabulary_is_refused(deep: Path, models_folder: Path) -> None:
    other = open_folder(tiny_model(models_folder, num_hidden_layers=4, vocab_size=520))
    with pytest.raises(CheckpointError, match="a vocabulary of 520"):
        layers_section(open_folder(deep), other, tiny_rows(deep, 4), tiny_rows(deep, 2, 8), Run(), settings=QUICK)


def test_a_monitor_of_requests_is_written_on_the_way(deep: Path, tmp_path: Path) -> None:
    model = open_folder(deep)
    child, rows = damaged(model, "model.layers.1.*"), (tiny_rows(deep, 8), tiny_rows(deep, 4, 8))
    layers_section(model, child, *rows, Run(), settings=QUICK, draws=0, monitor=tmp_path / "monitor")
    for each in (model, child):
        assert len(score_texts(load_monitor(tmp_path / "monitor", each), each, ["def f(x): return x"])) == 1
    with pytest.raises(OutputError, match="exists already"):
        layers_section(model, child, *rows, Run(), settings=QUICK, monitor=tmp_path / "monitor")


@pytest.mark.parametrize("labels", ["kind", "frequency", "hash", "domain"])
def test_every_kind_of_label(deep: Path, labels: Labels) -> None:
    model = open_folder(deep)
    fit, audit = tiny_tokens(deep, 8, 32), tiny_tokens(deep, 6, 32, 10)
    if labels == "domain":
        fit, audit = (type(each)(each.ids, ("a", "b") * (len(each.ids) // 2), each.documents) for each in (fit, audit))
    assert torch.equal(row_pair(model, fit, audit, labels)[0].targets, token_pair(model, fit, audit, labels)[0].targets)
    pair = token_pair(model, fit, audit, labels, tokens=128)
    assert pair[1].ids.numel() == 128
    facts = layers_section(model, damaged(model, "model.layers.2.*"), *pair, Run(), settings=QUICK, draws=1).facts
    assert facts["first_difference"]["block"] == 2
    assert facts["labels"] == list(pair[0].names)


def test_labels_of_the_users(deep: Path, tmp_path: Path) -> None:
    model, tokens = open_folder(deep), tiny_tokens(deep, 2)
    lines = [
        {"text": f"{word} and {word} {index}", "label": label}
        for word, label in (("yes", "comply"), ("never", "refuse")) for index in range(20)
    ]  # fmt: skip
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pair = row_pair(model, tokens, tokens, str(tmp_path / "labels.jsonl"))
    assert len(pair[0].targets) + len(pair[1].targets) == 40
    facts = layers_section(model, damaged(model, "model.layers.1.*"), *pair, Run(), settings=QUICK, draws=1).facts
    assert facts["labels"] == ["comply", "refuse"]
    assert facts["first_difference"]["block"] == 1
    with pytest.raises(DataError, match="did you mean 'kind'"):
        row_pair(model, tokens, tokens, "kinds")
    with pytest.raises(DataError, match="does not exist"):
        row_pair(model, tokens, tokens, str(tmp_path / "other.jsonl"))


def test_small_vision_models() -> None:
    module = convolutional()
    compared = compare_modules(module, damaged_module(module, "2"), samples(300), samples(200, 1), LABELS, Run(), QUICK)
    facts = section_of(compared).facts
    assert facts["first_drift"]["module"] == facts["most"]["name"] == facts["first_state"] == "2"
    assert facts["rows"][-1]["module"] == "prediction"
    assert layer_figures(facts)


def test_facts_are_plain_and_can_be_shown(deep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = audited(deep, "model.layers.1.*", restore=True).facts
    again = json.loads(json.dumps(facts, allow_nan=False))
    assert again == facts
    figures = layer_figures(again)
    assert len(figures) == 4
    write_page(tmp_path / "page.html", "layers", layer_sentences(again), figures)
    assert (tmp_path / "page.html").stat().st_size > 10_000
    print_layers(again)
    out = capsys.readouterr().out
    assert "beyond noise from: model.layers.1." in out
    assert "contributes most: block 1" in out
    assert "largest error of its own: block 1" in out
    assert max(len(line) for line in out.splitlines() if "block" in line and "%" in line) <= 80
    assert len(layer_rows(again, 3)) == 3
    grams = again["conceptograms"]
    pair = grams["labels"][grams["worst"]]
    assert len(pair["parent"]) == len(grams["rows"]) == len(again["rows"])
    assert torch.tensor(pair["child"]).sum(1).sub(1).abs().max() < 1e-3


def test_one_document_cannot_tell(deep: Path) -> None:
    model = open_folder(deep)
    fit, audit = tiny_rows(deep, 8), tiny_rows(deep, 2, 8)
    audit.units.zero_()
    section = layers_section(model, damaged(model, "*"), fit, audit, Run(), settings=QUICK, limit=0.5, draws=1)
    assert section.verdict is Verdict.CANNOT_TELL
    assert section.facts["first_drift"] is None
    assert section.facts["rows"][0]["interval"] is None
    assert json.dumps(section.facts, allow_nan=False)
    assert layer_figures(section.facts)
