"""Quality in all and by domain, KL, agreement: three answers each, and never a pass on too little text."""

from __future__ import annotations

import dataclasses
import math

import pytest

from featherweight.measure.quality import Quality
from featherweight.verify.gate import Verdict
from featherweight.verify.quality_section import QualityFloors, quality_section, unchanged

GOOD = Quality(0.99, (0.98, 1.0), 0.02, (0.01, 0.03), 0.93, (0.91, 0.95), 10.0, 10.1, 4096, 16)
SAME = Quality(1.0, (1.0, 1.0), 0.0, (0.0, 0.0), 1.0, (1.0, 1.0), 10.0, 10.0, 512, 1)
FLOORS = QualityFloors.of(0.95)


def verdicts(quality: Quality, floors: QualityFloors = FLOORS, **domains: Quality) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in quality_section(quality, domains, floors).checks}


def test_floors_follow_from_that_of_the_whole() -> None:
    assert FLOORS.domain == pytest.approx(0.85)
    assert FLOORS.kl == pytest.approx(-10 * math.log(0.95))
    assert FLOORS.agreement == pytest.approx(0.60)
    assert QualityFloors.of(0.9, 0.5, 0.1, 0.8) == QualityFloors(0.9, 0.5, 0.1, 0.8)
    low = QualityFloors.of(0.05)
    assert (low.domain, low.agreement) == (0, 0)
    assert str(QualityFloors.of(1.0).kl) == "0.0"


def test_a_good_child_passes_everything() -> None:
    assert set(verdicts(GOOD, prose=GOOD, code=GOOD).values()) == {Verdict.PASS}


def test_the_parent_itself_passes_the_highest_floors_on_one_document() -> None:
    assert unchanged(SAME)
    section = quality_section(SAME, {"prose": SAME, "code": SAME}, QualityFloors(1.0, 1.0, 0.0, 1.0))
    assert section.verdict is Verdict.PASS
    assert section.facts["all"]["kl"] == 0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"ratio_interval": (0.8, 0.9)}, "quality"),
        ({"kl_interval": (0.6, 0.7)}, "KL to the parent"),
        ({"agreement_interval": (0.4, 0.5)}, "same top token"),
    ],
)
def test_each_can_fail_alone(change: dict[str, tuple[float, float]], name: str) -> None:
    found = verdicts(dataclasses.replace(GOOD, **change))
    assert [key for key, verdict in found.items() if verdict is not Verdict.PASS] == [name]
    assert found[name] is Verdict.FAIL


def test_a_mean_does_not_hide_a_broken_domain() -> None:
    broken = dataclasses.replace(GOOD, ratio=0.5, ratio_interval=(0.4, 0.6))
    section = quality_section(GOOD, {"prose": GOOD, "code": broken}, FLOORS)
    assert section.verdict is Verdict.FAIL
    [failed] = [check for check in section.checks if check.verdict is Verdict.FAIL]
    assert (failed.name, failed.asked) == ("quality, code", "at least 85.0%")


def test_one_domain_is_the_whole() -> None:
    assert list(verdicts(GOOD, prose=GOOD)) == ["quality", "KL to the parent", "same top token"]


def test_a_limit_inside_the_interval_cannot_be_told() -> None:
    wide = dataclasses.replace(GOOD, ratio_interval=(0.9, 1.0), kl_interval=(0.1, 0.9), agreement_interval=(0.5, 0.7))
    assert set(verdicts(wide).values()) == {Verdict.CANNOT_TELL}


def test_few_documents_certify_nothing_and_may_still_fail() -> None:
    few = dataclasses.replace(GOOD, documents=4)
    section = quality_section(few, {}, FLOORS)
    assert {check.verdict for check in section.checks} == {Verdict.CANNOT_TELL}
    assert "4 documents give no interval to rely on; give text with 5 or more" in section.checks[0].reason
    assert verdicts(dataclasses.replace(few, ratio_interval=(0.1, 0.2)))["quality"] is Verdict.FAIL
