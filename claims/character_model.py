"""A toy: a four-block Llama that reads characters, trained for some seconds on text that every Python holds.

Small enough that every choice of a search space can be made and measured. The text is pydoc's topics; rows of the four
parts come from different pieces of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from featherweight.core.data import TokenSet, default_documents
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.train.loop import Schedule, minimise, shuffled

LENGTH = 48
_SHAPE = {
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class Toy:
    """A trained model and rows of characters that it did not learn from.

    Attributes:
        training, validation: rows for a search, [rows, length].
        held_out: rows to judge on.
    """

    model: Model
    training: torch.Tensor
    validation: torch.Tensor
    held_out: torch.Tensor

    @property
    def calibration(self) -> TokenSet:
        """The first training rows."""
        rows = self.training[:24]
        return TokenSet(rows, ("prose",) * len(rows), tuple(range(len(rows))))


def character_rows(vocabulary: dict[str, int]) -> list[torch.Tensor]:
    """Rows of character numbers of every document, in turn; rare characters are one and the same."""
    found = []
    for text in default_documents()["prose"]:
        ids = torch.tensor([vocabulary.get(each, 0) for each in text])
        found.append(ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH))
    return found


def vocabulary() -> dict[str, int]:
    """The 95 commonest characters, numbered from 1."""
    text = "".join(default_documents()["prose"])
    counts = {each: text.count(each) for each in set(text)}
    return {each: index + 1 for index, each in enumerate(sorted(counts, key=lambda c: (-counts[c], c))[:95])}


def trained_toy(folder: Path, seed: int, steps: int = 200) -> Toy:
    """Trains the toy and writes it into `folder`; another seed is another model on the same text."""
    documents = character_rows(vocabulary())
    # Documents, not rows, are dealt out: what is judged on was never near what was learnt from.
    learnt, training, validation, held_out = (
        torch.cat([rows for index, rows in enumerate(documents) if index % 8 in part])
        for part in ((0, 1, 2, 3, 4), (5,), (6,), (7,))
    )
    torch.manual_seed(seed)
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=96, **_SHAPE))
    generator = torch.Generator().manual_seed(seed)
    rows = shuffled(len(learnt), 16, generator)

    def loss(step: int) -> torch.Tensor:
        batch = learnt[list(rows(step))]
        return module(input_ids=batch, labels=batch, use_cache=False).loss

    minimise(module.parameters(), loss, Schedule(steps, 4e-3, warmup=20), "toy")
    module.save_pretrained(folder)
    few = (
        each[torch.randperm(len(each), generator=torch.Generator().manual_seed(0))]
        for each in (training, validation, held_out)
    )
    return Toy(open_folder(folder), *(each[:count] for each, count in zip(few, (256, 64, 64), strict=True)))


def nll(model: Model, rows: torch.Tensor) -> torch.Tensor:
    """Mean next-character negative log-likelihood of every row, nats, float64 [rows]."""
    with torch.inference_mode():
        logits = model.module()(rows, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    return losses.double().mean(1)
