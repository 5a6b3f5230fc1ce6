"""Plug-ins by name: ours, and those that installed packages name in an entry-point group; loaded when asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from featherweight.core.errors import PolicyError, nearest
from featherweight.core.fields import built

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Plugins(Generic[T]):
    """A kind of plug-in.

    Attributes:
        kind: for messages, such as "detector".
        group: entry-point group in which other packages name theirs.
        ours: "module:class" by name.
        base: what each must be a subclass of.
    """

    kind: str
    group: str
    ours: Mapping[str, str]
    base: type[T]

    def names(self) -> list[str]:
        """Every name that can be asked for."""
        return sorted({*self.ours, *(point.name for point in importlib.metadata.entry_points(group=self.group))})

    def find(self, name: str) -> type[T]:
        """The class called `name`.

        Raises:
            PolicyError: there is none, two packages have one, or it cannot be loaded.
        """
        points = list(importlib.metadata.entry_points(group=self.group, name=name))
        if len(points) + (name in self.ours) > 1:
            raise PolicyError(f"{self.kind} {name!r}", "is there more than once", "remove one of the packages")
        if not points and name not in self.ours:
            hint = nearest(name, self.names()) or f"use one of {', '.join(self.names())}"
            raise PolicyError(f"{self.kind} {name!r}", "is unknown", hint)
        place = self.ours.get(name) or points[0].value
        try:
            module, _, attribute = place.partition(":")
            found = getattr(importlib.import_module(module.strip()), attribute.strip())
        except Exception as error:  # whatever another package does
            raise PolicyError(f"{self.kind} {name!r}", f"cannot be loaded ({error})", "repair its package") from None
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise PolicyError(
                f"{self.kind} {name!r}", f"is no {self.base.__name__}", "correct the entry point of its package"
            )
        return found

    def build(self, name: str, settings: Mapping[str, Any]) -> T:
        """One with these settings.

        Raises:
            PolicyError: an unknown name or setting, or a bad value; it is named.
        """
        return built(self.find(name), settings, f"{self.kind} {name}", PolicyError, "correct the policy")
