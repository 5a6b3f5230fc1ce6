"""What each runtime can store, and the choice of one format a tensor under a byte budget.

GGUF rounds every matrix, the embedding too, and keeps vectors in F32. compressed-tensors rounds linears only: the
embedding and the head stay in 16 bits, as every loader expects; formats are symmetric, because transformers loads no
other ones in a mix; and linears that servers fuse (those that share an input) get one format together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featherweight.core.architecture import EMBEDDING, HEAD
from featherweight.core.errors import BudgetError
from featherweight.core.formats import get
from featherweight.core.knapsack import Table, allocate

RUNTIME_FORMATS: Mapping[str, tuple[str, ...]] = {
    "gguf": ("Q2_K", "Q3_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_K", "Q4_1", "Q5_0", "Q5_K", "Q5_1", "Q6_K", "Q8_0"),
    "compressed-tensors": ("int4-g128", "int4-g64", "int4-g32", "int8-g128", "int8-g64"),
}  # fmt: skip
WIDE = "BF16"
_FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}

Shapes = Mapping[str, tuple[int, ...]]


def choices(table: Table, shapes: Shapes, runtime: str) -> dict[str, dict[str, float]]:
    """Expected damage of every format that each matrix may take in a runtime; 16 bits cost nothing."""
    wide = () if runtime == "gguf" else (EMBEDDING, HEAD)
    return {name: {WIDE: 0.0} if name in wide else {**table[name], WIDE: 0.0} for name in shapes if name in table}


def vector_bytes(table: Table, shapes: Shapes, runtime: str) -> int:
    """Stored bytes of everything that is never rounded: norms and biases."""
    kind = get("F32" if runtime == "gguf" else WIDE)
    return sum(kind.tensor_bytes(shape) for name, shape in shapes.items() if name not in table)


def choose_formats(table: Table, shapes: Shapes, runtime: str, budget: int) -> dict[str, str]:
    """The formats of least total damage whose tensors take at most `budget` bytes.

    Raises:
        BudgetError: the smallest formats take more.
    """
    losses = choices(table, shapes, runtime)
    costs = {name: {kind: get(kind).tensor_bytes(shapes[name]) for kind in row} for name, row in losses.items()}
    left = budget - vector_bytes(table, shapes, runtime)
    if left <= 0:
        raise BudgetError(f"{budget} bytes of tensors", "do not even hold the norms and biases", "allow more memory")
    if runtime == "gguf":
        return allocate(losses, costs, left)
    together = _fused(losses)
    return {
        name: kind
        for first, kind in allocate(_joined(losses, together), _joined(costs, together), left).items()
        for name in together[first]
    }


def _fused(rows: Table) -> dict[str, list[str]]:
    """Matrices that get one format, under the name of the first of them."""
    groups: dict[str, list[str]] = {}
    firsts: dict[tuple[str, str], str] = {}
    for name in rows:
        block, _, part = name.removesuffix(".weight").rpartition(".")
        key = (block, _FUSED.get(part, part))
        groups.setdefault(firsts.setdefault(key, name), []).append(name)
    return groups


def _joined(table: Mapping[str, Mapping[str, Any]], together: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Sums over each group, for the choices that all its members have."""
    return {
        first: {
            kind: sum(table[name][kind] for name in names)
            for kind in table[first]
            if all(kind in table[name] for name in names)
        }
        for first, names in together.items()
    }


def smallest_bytes(table: Table, shapes: Shapes, runtime: str) -> int:
    """Bytes of all tensors, each in its smallest format."""
    rows = choices(table, shapes, runtime)
    matrices = sum(min(get(kind).tensor_bytes(shapes[name]) for kind in row) for name, row in rows.items())
    return matrices + vector_bytes(table, shapes, runtime)
