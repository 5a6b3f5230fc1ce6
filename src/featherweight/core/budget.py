"""Budget: the limits a deployment sets, with their units ("92MB", "45%", "30ms", "85%").

Bytes take decimal (kB, MB, GB) or binary (KiB, MiB, GiB) units; a percentage of memory is a share of the parent's
bf16 file. Latency is per decoded token. Quality is parent perplexity / child perplexity (1.0 = as good as the parent).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from featherweight.core.errors import BudgetError

_BYTES = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_QUANTITY = re.compile(r"\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*([^\d\s]*)\s*")


def _split(text: str, name: str, allowed: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise BudgetError(f"--{name} {text!r}", "is not a number with a unit", f"write for example {allowed}")
    if not math.isfinite(float(match[1])):
        raise BudgetError(f"--{name} {text!r}", "is too large", f"write for example {allowed}")
    return float(match[1]), match[2]


def _positive(value: float, text: object, name: str) -> float:
    if not value > 0:
        raise BudgetError(f"--{name} {text}", "must be above zero", "give a positive amount")
    return value


def parse_share(value: object, name: str, example: str = "85%") -> float:
    """A share in (0, 1] from "85%" or 0.85."""
    if isinstance(value, str):
        number, unit = _split(value, name, example)
        if unit not in ("%", ""):
            raise BudgetError(f"--{name} {value!r}", f"{unit!r} is no unit of a share", f"write for example {example}")
        share = number / 100 if unit == "%" else number
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        share = float(value)
    else:
        raise BudgetError(f"--{name} {value!r}", "is not a share", f"write for example {example}")
    _positive(share, value, name)
    if share > 1:
        raise BudgetError(f"--{name} {value}", "is above 100 % of the parent", f"write for example {example}")
    return share


def parse_margin(value: object, name: str, example: str = "2%") -> float:
    """A share in [0, 1) from "2%" or 0.02: how much may be lost."""
    text = value.strip() if isinstance(value, str) else value
    if text in (0, "0", "0%") and not isinstance(text, bool):
        return 0.0
    share = parse_share(value, name, example)
    if share == 1:
        raise BudgetError(f"--{name} {value}", "allows everything to be lost", f"write for example {example}")
    return share


def parse_bytes(value: object, name: str, shares: bool = False) -> int:
    """A number of bytes from "92MB" or an int; `shares` says that whoever asks takes percentages too."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BudgetError(f"--{name} {value!r}", "is not a number of bytes", "write for example 92MB or 90MiB")
    if isinstance(value, int):
        return int(_positive(value, value, name))
    number, unit = _split(value, name, "92MB, 90MiB or 45%" if shares else "92MB or 90MiB")
    if unit not in _BYTES:
        wrong = f"{unit!r} is no unit of memory" if unit else "has no unit"
        raise BudgetError(f"--{name} {value!r}", wrong, f"use one of {', '.join(_BYTES)}{' or %' if shares else ''}")
    return int(_positive(int(number * _BYTES[unit]), value, name))


def parse_memory(value: object, name: str = "memory") -> int | float:
    """Bytes as an int, or a share of the parent's bf16 file as a float below or equal to 1."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return parse_share(value, name, "45%")
    if isinstance(value, float):
        return parse_share(value, name, "45%")
    return parse_bytes(value, name, shares=True)


def parse_seconds(value: object, name: str = "latency") -> float:
    """Seconds from "30ms"; a bare number is refused, because nobody agrees on its unit."""
    if not isinstance(value, str):
        if isinstance(value, float) and value > 0:
            return value
        raise BudgetError(f"--{name} {value!r}", "has no unit", "write for example '30ms'")
    number, unit = _split(value, name, "30ms")
    if unit not in _SECONDS:
        wrong = f"{unit!r} is no unit of time" if unit else "has no unit"
        raise BudgetError(f"--{name} {value!r}", wrong, f"use one of {', '.join(_SECONDS)}")
    return _positive(number * _SECONDS[unit], value, name)


def _optional(parse: Any, *args: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value is None else parse(value, *args))


Memory = Annotated[int | float | None, _optional(parse_memory)]
Resident = Annotated[int | None, _optional(parse_bytes, "resident")]
Seconds = Annotated[float | None, _optional(parse_seconds)]
Share = Annotated[float | None, _optional(parse_share, "quality")]


class Budget(BaseModel):
    """The limits that the exported model must meet; every one is optional, but one must be given.

    Attributes:
        memory: bytes of the exported model file (int), or a share of the parent in bf16 (float).
        resident: peak resident bytes of a fresh process that serves the model at `context` tokens.
        latency: seconds per decoded token in the runtime of the chosen format.
        quality: least parent perplexity / child perplexity, held by the lower end of its bootstrap interval.
        context: tokens of context at which `resident` is measured.
        threads: processor threads for measuring latency; None means all cores that this process may use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: Memory = None
    resident: Resident = None
    latency: Seconds = None
    quality: Share = None
    context: int = Field(512, ge=16)
    threads: int | None = Field(None, ge=1)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise BudgetError(f"budget field {name!r}", first["msg"], "see `featherweight fit --help`") from None
        if all(limit is None for limit in (self.memory, self.resident, self.latency, self.quality)):
            raise BudgetError("budget", "sets no limit", "give at least one of memory, resident, latency, quality")

    def memory_bytes(self, parent_bytes: int) -> int | None:
        """The memory limit in bytes, given the bytes of the parent's bf16 file; refuses a limit above the parent."""
        if self.memory is None:
            return None
        if isinstance(self.memory, float):
            return int(self.memory * parent_bytes)
        if self.memory > parent_bytes:
            raise BudgetError(
                f"--memory {format_bytes(self.memory)}",
                f"is above the parent itself, which takes {format_bytes(parent_bytes)} in bf16",
                "ask for less, or export the parent with `featherweight apply`",
            )
        return self.memory


def format_bytes(count: float) -> str:
    """Bytes for people, in decimal units: 92_000_000 -> '92.00 MB'."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"
