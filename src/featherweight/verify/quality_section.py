"""The quality part of a verification: perplexity ratio in all and by domain, KL divergence, top-1 agreement.

Each number has a 95 % bootstrap interval over documents and is judged against a floor or a ceiling: all of the interval
on the good side passes, all of it on the bad side fails, and else it cannot be told. Documents are few as a rule, so a
pass takes five of them at least; a failure needs none, since it keeps nothing bad in.

What nobody sets follows from the floor of the whole. A domain may be ten points below it: it has fewer documents, and a
mean over domains hides one that broke. KL may be ten times the nats that the floor allows to be lost (-10 ln floor),
and the share of equal most likely tokens 35 points below it: compression that keeps its perplexity stays far inside
both, and what has become another model of the same perplexity does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from featherweight.measure.quality import Quality
from featherweight.verify.gate import Check, Verdict, judged, quality_check
from featherweight.verify.section import Section

FEWEST = 5  # documents
_DOMAIN_SLACK, _AGREEMENT_SLACK = 0.10, 0.35
_KL_FACTOR = 10.0


@dataclass(frozen=True)
class QualityFloors:
    """What a child must reach.

    Attributes:
        ratio: least parent perplexity / child perplexity over all text.
        domain: the same for each domain.
        kl: most KL divergence to the parent, nats a token.
        agreement: least share of tokens with the same most likely next token.
    """

    ratio: float
    domain: float
    kl: float
    agreement: float

    @classmethod
    def of(
        cls, ratio: float, domain: float | None = None, kl: float | None = None, agreement: float | None = None
    ) -> QualityFloors:
        """The floors that are given, and for the others what follows from that of the whole."""
        return cls(
            ratio,
            max(ratio - _DOMAIN_SLACK, 0.0) if domain is None else domain,
            abs(_KL_FACTOR * math.log(ratio)) if kl is None else kl,
            max(ratio - _AGREEMENT_SLACK, 0.0) if agreement is None else agreement,
        )


def quality_section(quality: Quality, domains: Mapping[str, Quality], floors: QualityFloors) -> Section:
    """The checks of one child.

    Args:
        quality: over all text.
        domains: by domain; a single one is the whole and is not judged twice.
        floors: what is asked.
    """
    whole = [quality_check(quality, floors.ratio), _kl_check(quality, floors.kl)]
    whole.append(_agreement_check(quality, floors.agreement))
    checks = [with_enough(check, quality) for check in whole]
    if len(domains) > 1:
        checks += [
            with_enough(quality_check(each, floors.domain, f"quality, {name}"), each) for name, each in domains.items()
        ]
    facts = {
        "all": quality.to_dict(),
        "domains": {name: each.to_dict() for name, each in domains.items()},
        "floors": dict(floors.__dict__),
    }
    return Section("quality", tuple(checks), facts)


def _kl_check(quality: Quality, ceiling: float) -> Check:
    low, high = quality.kl_interval
    found = f"{quality.kl:.4f} ({low:.4f} to {high:.4f})"
    return judged("KL to the parent", f"at most {ceiling:.4g} nats", found, high <= ceiling, low > ceiling, "ceiling")


def _agreement_check(quality: Quality, floor: float) -> Check:
    low, high = quality.agreement_interval
    found = f"{quality.agreement:.1%} ({low:.1%} to {high:.1%})"
    return judged("same top token", f"at least {floor:.1%}", found, low >= floor, high < floor)


def with_enough(check: Check, quality: Quality) -> Check:
    """The check, unless it passes on fewer documents than give an interval; a child that changes nothing needs none."""
    if check.verdict is not Verdict.PASS or quality.documents >= FEWEST or unchanged(quality):
        return check
    reason = f"{quality.documents} documents give no interval to rely on; give text with {FEWEST} or more"
    return Check(check.name, check.asked, check.found, Verdict.CANNOT_TELL, reason)


def unchanged(quality: Quality) -> bool:
    """Whether the child computes what its parent does, on every token."""
    return quality.kl == 0 and quality.agreement == 1 and quality.ratio == 1
