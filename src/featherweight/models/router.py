"""Router: which of a model's domains a request belongs to, by the tag that it carries.

Nothing is learned and nothing is guessed from the text; a request without a tag gets the fallback. Plain Python, so
that any server can ask it before it fills a batch, whatever runs the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.core.errors import DataError, nearest


@dataclass(frozen=True)
class Router:
    """Chooses among a fixed list of domains.

    Attributes:
        domains: their names; a domain's place in it is the place of its mask.
        fallback: the domain of requests that carry no tag.
    """

    domains: tuple[str, ...]
    fallback: str

    def __post_init__(self) -> None:
        if len(set(self.domains)) != len(self.domains) or not self.domains:
            raise DataError(f"domains {list(self.domains)}", "are none, or not all different", "name each of them once")
        self.pick(self.fallback)

    def pick(self, tag: str | None) -> int:
        """The place of a request's domain.

        Raises:
            DataError: no domain has that name.
        """
        wanted = self.fallback if tag is None else tag
        if wanted not in self.domains:
            known = nearest(wanted, self.domains) or f"use one of {', '.join(self.domains)}"
            raise DataError(f"domain {wanted!r}", "is none that this model has a mask for", known)
        return self.domains.index(wanted)

    def pick_all(self, tags: str | Sequence[str | None] | None) -> tuple[int, ...]:
        """The places of the domains of a batch: one for each tag, or one for all where a single tag is given."""
        if tags is None or isinstance(tags, str):
            return (self.pick(tags),)
        if not tags:
            raise DataError("a batch's tags", "are none", "give one for each row, or one for all")
        return tuple(self.pick(tag) for tag in tags)
