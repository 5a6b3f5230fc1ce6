"""What a training step holds in memory, term by term, and the levers that lower it.

Numbers only: who counts and measures them is `memory_facts`, who chooses among levers is `memory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DENSE, STORED, DISK = "dense", "stored", "disk"
EXACT = (DENSE, STORED, DISK)
"""Ways to keep the base that change nothing of it."""

# Seconds of a step as a multiple of the step with a dense base and nothing computed again. On SmolLM2-135M (Q4_1),
# rows of 512 tokens, two cores: stored 1.05 to 1.13, disk 0.97 to 1.04 times that, computed again 1.24 to 1.53,
# boundaries on disk 0.99 to 1.04. They order the choices, they promise nothing.
TIMES = {DENSE: 1.0, STORED: 1.08, DISK: 1.12}
RECOMPUTED, OFFLOADED = 1.4, 1.02
LOST = 0.06  # of everything but libraries: what the heap and the objects around the tensors took, measured at 5.5 %


@dataclass(frozen=True)
class Levers:
    """What is done for less memory.

    Attributes:
        base: "dense" = float32; "stored" = as the model keeps it, or rounded to a format that is named; "disk".
        recompute: blocks keep only their inputs and are computed again in the backward pass.
        offload: those inputs wait in a temporary file.
        all_logits: the head's logits exist for all tokens at once, as in transformers; shown for comparison.
    """

    base: str = DENSE
    recompute: bool = False
    offload: bool = False
    all_logits: bool = False

    @property
    def time(self) -> float:
        """Expected seconds of a step, as a multiple of those without levers."""
        time = TIMES.get(self.base, TIMES[STORED])
        time *= RECOMPUTED if self.recompute else 1.0
        return time * (OFFLOADED if self.offload else 1.0)

    def words(self) -> str:
        """For people."""
        base = {DENSE: "", STORED: "the base as it is stored", DISK: "the base on disk"}
        parts = [
            base.get(self.base, f"the base rounded to {self.base}"),
            "blocks computed again" if self.recompute else "",
            "their inputs on disk" if self.offload else "",
            "logits of all tokens at once" if self.all_logits else "",
        ]
        return ", ".join(part for part in parts if part) or "nothing"


@dataclass(frozen=True)
class Shape:
    """The rows that pass the model at once."""

    rows: int
    length: int
    packed: bool = False


@dataclass(frozen=True)
class Facts:
    """What is known of a model, a method and a shape, in bytes.

    Attributes:
        resident: what the process has before training.
        weights: of the base by the way it is kept.
        adapter: trained parameters; their gradients take as much.
        optimizer: states that the optimizer keeps.
        block: what one block saves for its backward pass, its input included where it saves that.
        outside: the same for what lies outside the blocks, without the head.
        inputs: input of one block.
        blocks: how many there are.
        logits: of all tokens, as many copies as transformers has.
        pieces: of the head's loss in pieces.
        dense: the pieces of a matrix that are dense for a moment where the base is not.
        working: what a step took beyond all that in the one-block model; at least what the block saves.
        device: where it trains; torch keeps what is freed of a GPU by itself.
    """

    resident: int
    weights: Mapping[str, int]
    adapter: int
    optimizer: int
    block: int
    outside: int
    inputs: int
    blocks: int
    logits: int
    pieces: int
    dense: int
    working: int
    device: str = "cpu"

    def terms(self, levers: Levers) -> dict[str, int]:
        """Bytes by name at the peak of a step."""
        together = 1 if levers.recompute else self.blocks
        waiting = 3 if levers.offload else self.blocks
        terms = {
            "libraries": self.resident,
            "frozen weights": self.weights[levers.base],
            "adapter": self.adapter,
            "gradients": self.adapter,
            "optimizer states": self.optimizer,
            "activations": together * self.block + self.outside,
            "block inputs": waiting * self.inputs if levers.recompute else 0,
            "logits": self.logits if levers.all_logits else self.pieces,
            "dense pieces": 0 if levers.base == DENSE else self.dense,
            "working memory": self.working,
        }
        return {**terms, "lost in the heap": round(LOST * (sum(terms.values()) - self.resident))}

    def total(self, levers: Levers) -> int:
        return sum(self.terms(levers).values())
