"""Workloads of a bake-off: a small Llama that reads characters, or a model of yours on a text of yours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from featherweight.core.batch import Batch
from featherweight.core.data import default_documents
from featherweight.core.errors import DataError
from featherweight.core.lazy import torch, transformers
from featherweight.core.model import Model
from featherweight.train.bake_off import Workload
from featherweight.train.loop import shuffled

_CHARACTERS = 96
_PART = 8  # one row of so many is held out, by document
_SHAPE: dict[str, Any] = {
    "vocab_size": _CHARACTERS, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}  # fmt: skip


def characters(length: int = 48, batch: int = 8, held_out: int = 64) -> Workload:
    """Pydoc's prose, character by character, and a random Llama of two blocks, 64 wide.

    Args:
        length: characters of a row.
        batch: rows a step.
        held_out: rows to judge on, of other documents.
    """
    learnt, judged = _rows(length)

    def start(seed: int) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module: torch.nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SHAPE))
        return module

    return Workload(
        "a small Llama of characters", start, _dealt(learnt, batch), [plain(judged[:held_out])], batch * (length - 1)
    )


@cache
def _rows(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of character numbers to learn from and to judge on; the 95 commonest characters are told apart."""
    texts = default_documents()["prose"]
    everything = "".join(texts)
    common = sorted(set(everything), key=lambda each: (-everything.count(each), each))[: _CHARACTERS - 1]
    number = {each: index + 1 for index, each in enumerate(common)}
    rows = []
    for text in texts:
        ids = torch.tensor([number.get(each, 0) for each in text])
        rows.append(ids[: len(ids) // length * length].reshape(-1, length))
    judged = torch.cat(rows[::_PART])
    order = torch.randperm(len(judged), generator=torch.Generator().manual_seed(0))
    return torch.cat([each for index, each in enumerate(rows) if index % _PART]), judged[order]


def of_model(model: Model, rows: torch.Tensor, judged: torch.Tensor, batch: int = 4) -> Workload:
    """Full training of a model on rows of its tokens.

    Args:
        model: every seed starts from it; seeds differ in the order of rows.
        rows: to learn from, int64 [rows, length].
        judged: to judge on.
        batch: rows a step.

    Raises:
        DataError: too few rows for one batch.
    """
    if len(rows) < batch or not len(judged):
        raise DataError("the text", f"gives {len(rows)} rows of tokens", f"give more of it: a step takes {batch}")

    def start(_: int) -> torch.nn.Module:
        module: torch.nn.Module = model.module()
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()  # it may lie in a file that is mapped into memory
        return module

    held_out = [plain(each) for each in judged.split(batch)]
    return Workload("full training", start, _dealt(rows, batch), held_out, batch * (rows.shape[1] - 1))


def _dealt(rows: torch.Tensor, batch: int) -> Callable[[int], Callable[[int], Batch]]:
    """Batches of a seed: the same for every optimizer and rate."""

    def of_seed(seed: int) -> Callable[[int], Batch]:
        chosen: Callable[[int], Sequence[int]] = shuffled(len(rows), batch, torch.Generator().manual_seed(seed))
        return lambda step: plain(rows[list(chosen(step))])

    return of_seed


def plain(ids: torch.Tensor) -> Batch:
    """Rows of text in which every token counts."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return Batch(ids, ids, positions, torch.zeros_like(ids))
