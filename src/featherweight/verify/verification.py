"""What a verification came to: the sections of every child, a verdict for each, and the ranking of several.

A child fails if one check fails, cannot be told if one cannot, and passes if all pass. Of several children it is enough
that one passes: they are alternatives, and the ranking says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featherweight.core.reference_frame import Ranking
from featherweight.verify.gate import Check, Verdict, overall
from featherweight.verify.section import Section


@dataclass(frozen=True)
class Verified:
    """One child.

    Attributes:
        name: as it was given.
        sections: what was looked at, in order.
        facts: fingerprint, bytes and whatever else identifies it; plain JSON.
    """

    name: str
    sections: tuple[Section, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checks(self) -> list[Check]:
        """All checks, section by section."""
        return [check for section in self.sections for check in section.checks]

    @property
    def verdict(self) -> Verdict:
        """Of all checks together."""
        return overall(self.checks)

    def section(self, name: str) -> Section | None:
        """The section called `name`, if it was looked at."""
        return next((section for section in self.sections if section.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name, "verdict": str(self.verdict), "model": dict(self.facts),
            "sections": [section_facts(section) for section in self.sections],
        }  # fmt: skip


def section_facts(section: Section) -> dict[str, Any]:
    """A section as plain JSON values."""
    checks = [{**check.__dict__, "verdict": str(check.verdict)} for check in section.checks]
    return {
        "name": section.name, "verdict": str(section.verdict), "checks": checks, "facts": dict(section.facts),
    }  # fmt: skip


@dataclass(frozen=True)
class Verification:
    """Children against their parent.

    Attributes:
        parent: its name.
        children: one or several.
        parent_facts: fingerprint and bytes; plain JSON.
        ranking: of several children; None of one.
    """

    parent: str
    children: tuple[Verified, ...]
    parent_facts: Mapping[str, Any] = field(default_factory=dict)
    ranking: Ranking | None = None

    @property
    def verdict(self) -> Verdict:
        """That of the best child."""
        verdicts = [child.verdict for child in self.children]
        return next(each for each in (Verdict.PASS, Verdict.CANNOT_TELL, Verdict.FAIL) if each in verdicts)

    @property
    def checks(self) -> list[Check]:
        """Those of all children."""
        return [check for child in self.children for check in child.checks]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: what another run on the same inputs must give again."""
        ranking = self.ranking
        return {
            "verdict": str(self.verdict), "parent": {"name": self.parent, **self.parent_facts},
            "children": [child.to_dict() for child in self.children],
            "ranking": ranking and {
                "ranked": [list(pair) for pair in ranking.ranked],
                "vetoed": {name: list(missed) for name, missed in ranking.vetoed.items()},
            },
        }  # fmt: skip
