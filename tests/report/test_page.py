"""The report: one file that loads nothing, readable wide and narrow, with the reasons where nothing fits."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import featherweight as fw
from featherweight.report.page import render
from featherweight.verbs.fit import FitResult

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FRAME = """<!doctype html><body style="margin: 0">
<iframe id="frame" src="report.html" style="width: %dpx; height: 3000px; border: 0"></iframe>
<pre id="found"></pre>
<script>
const settle = 1500;
document.getElementById("frame").onload = () => setTimeout(() => {
  const view = document.getElementById("frame").contentWindow, page = view.document;
  const clipped = (each) => each.closest(".scroll, pre, svg, .js-plotly-plot") !== null;
  const named = (each) => each.tagName + " " + (each.id || each.textContent.trim().slice(0, 30));
  const box = (each) => {
    const {left, top, right, bottom} = each.getBoundingClientRect();
    return {name: named(each), left, top, right, bottom};
  };
  document.getElementById("found").textContent = JSON.stringify({
    inner: view.innerWidth,
    scrolls: page.documentElement.scrollWidth,
    wide: [...page.querySelectorAll("main *")].filter((each) => !clipped(each) &&
      each.getBoundingClientRect().right > view.innerWidth + 0.5).map(named),
    charts: [...page.querySelectorAll(".js-plotly-plot")].map((each) => each.querySelectorAll("svg.main-svg").length),
    boxes: [...page.querySelectorAll("h1, h2, .cards, table, main pre, .js-plotly-plot")].map(box),
    loaded: view.performance.getEntriesByType("resource").map((each) => each.name),
  });
}, settle);
</script>"""


@pytest.fixture(scope="module")
def page(fitted: FitResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a finished run, in a folder of its own."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copy(fitted.folder / "result.json", folder)
    return fw.report(folder)


def looked_at(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """What headless Chromium finds on the page in a viewport of this width."""
    assert CHROMIUM is not None
    shutil.copy(page, folder / "report.html")
    (folder / "frame.html").write_text(_FRAME % width)
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--allow-file-access-from-files", "--window-size=1400,3200",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=8000", "--dump-dom",
            (folder / "frame.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: Path, width: int, tmp_path: Path) -> None:
    found = looked_at(page, width, tmp_path)
    assert found["inner"] == width
    assert found["scrolls"] <= width, found["wide"]
    assert found["wide"] == []
    assert found["loaded"] == [], "it loads something"
    assert len(found["charts"]) == 3
    assert min(found["charts"]) >= 1, "a chart was not drawn"
    boxes = found["boxes"]
    assert len(boxes) > 10
    for one, other in itertools.combinations(boxes, 2):
        assert not overlap(one, other), (one, other)


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether two boxes share more than an edge."""
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return across > 0.5 and down > 0.5


class TestContent:
    def test_nothing_is_loaded_from_elsewhere(self, page: Path) -> None:
        text = re.sub(r"<script>.*?</script>", "", page.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", text)
        assert not re.search(r"url\(|@import|<link|<iframe|<img", text)

    def test_every_trial_and_every_receipt_is_told(self, page: Path, fitted: FitResult) -> None:
        text = html.unescape(page.read_text("utf-8"))
        for trial in fitted.facts["trials"]:
            assert f"{trial['status']}: {trial['reason']}" in text
        for receipt in fitted.facts["ledger"]:
            assert receipt["hash"][:12] in text
        assert "meets the budget" in text
        assert fitted.facts["model"]["fingerprint"] in text

    def test_a_name_is_no_markup(self, fitted: FitResult) -> None:
        facts = json.loads(json.dumps(fitted.facts))
        facts["model"]["name"] = "<script>alert(1)</script>"
        assert "<script>alert(1)" not in render(facts)

    def test_reasons_where_nothing_fits(self, infeasible: FitResult) -> None:
        text = html.unescape(render(json.loads(json.dumps(infeasible.facts))))
        why = infeasible.facts["why"]
        assert "does not meet the budget" in text
        assert "Why nothing meets this budget" in text
        assert f"Binding: {', '.join(why['binding'])}" in text
        for value in (*why["goal"].values(), *why["reachable"].values()):
            assert value in text


def test_the_verb_writes_one_file(command: Callable[..., Any], fitted: FitResult, tmp_path: Path) -> None:
    shutil.copy(fitted.folder / "result.json", tmp_path)
    ended = command("report", tmp_path)
    assert ended.status == 0
    assert ended.out == f"wrote {tmp_path / 'report.html'}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "result.json"]
