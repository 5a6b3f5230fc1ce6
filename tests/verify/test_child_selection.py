"""Several children in a declared frame: what vetoes, what ranks, and that one child never moves another."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from featherweight.verify.gate import Check, Verdict
from featherweight.verify.section import Section
from featherweight.verify.selection import frame, ranked
from featherweight.verify.verification import Verification, Verified

PARENT = 1000


def child(name: str, quality: float, size: int, verdict: Verdict = Verdict.PASS, loss: float | None = None) -> Verified:
    """A child whose quality interval starts at `quality`; `loss` is the bound of its direct refusals."""
    check = Check("quality", "", "", verdict, "")
    sections = [Section("quality", (check,), {"all": {"ratio_interval": [quality, 1.0]}})]
    if loss is not None:
        sets: dict[str, Any] = {
            "direct": {"loss_bound": loss, "margin": 0.02},
            "benign": {"loss_bound": 1, "margin": 1},
        }
        sections.append(Section("safety", (), {"automatic": {"sets": sets}, "adjudicated": None}))
    return Verified(name, tuple(sections), {"bytes": size})


def test_better_and_smaller_come_first() -> None:
    found = ranked([child("a", 0.96, 600), child("b", 0.99, 600), child("c", 0.96, 300)], frame(0.95, PARENT), False)
    assert [name for name, _ in found.ranked] == ["b", "c", "a"]


def test_what_is_out_and_for_what() -> None:
    children = [
        child("low", 0.94, 100), child("large", 0.99, 401), child("unclear", 0.99, 100, Verdict.CANNOT_TELL),
        child("unsafe", 0.99, 100, loss=0.021), child("unasked", 0.99, 100),
    ]  # fmt: skip
    found = ranked(children, frame(0.95, PARENT, 400, safety=True), True)
    assert found.best is None
    assert found.vetoed == {
        "low": ("quality", "safety"), "large": ("bytes", "safety"), "unclear": ("checks", "safety"),
        "unsafe": ("safety",), "unasked": ("safety",),
    }  # fmt: skip


def test_without_a_limit_no_child_is_out_for_its_bytes() -> None:
    found = ranked([child("large", 0.99, 5 * PARENT), child("small", 0.99, PARENT // 8)], frame(0.95, PARENT), False)
    assert [name for name, _ in found.ranked] == ["small", "large"]


def test_of_the_same_quality_and_bytes_the_safer_one() -> None:
    children = [child("a", 0.97, 300, loss=0.015), child("b", 0.97, 300, loss=0.005)]
    assert ranked(children, frame(0.95, PARENT, safety=True), False).best == "b"


@given(st.lists(st.tuples(st.floats(0.9, 1.0), st.integers(1, 1200)), min_size=2, max_size=6), st.data())
def test_one_child_never_moves_another(values: list[tuple[float, int]], data: st.DataObject) -> None:
    children = [child(str(number), *each) for number, each in enumerate(values)]
    some = data.draw(st.lists(st.sampled_from(children), min_size=1, unique_by=lambda each: each.name))
    criteria = frame(0.95, PARENT, 800)
    every = dict(ranked(children, criteria, True).ranked)
    assert dict(ranked(some, criteria, True).ranked) == {
        each.name: every[each.name] for each in some if each.name in every
    }


def test_the_verdict_is_that_of_the_best_child() -> None:
    kinds = {verdict: child(str(verdict), 0.99, 100, verdict) for verdict in Verdict}
    for worse, better in (("fail", "pass"), ("cannot tell", "pass"), ("fail", "cannot tell")):
        pair = (kinds[Verdict(worse)], kinds[Verdict(better)])
        assert Verification("parent", pair).verdict is Verdict(better)
