"""An untrained student that fits in a component's place: the same ids, states of the same width, the same pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.core.errors import RecipeError
from featherweight.core.host import Component
from featherweight.core.lazy import torch
from featherweight.core.prompts import padded


def untrained_student(
    component: Component, rows: Sequence[Sequence[int]], sizes: Mapping[str, Any], kept: Sequence[int] | None, seed: int
) -> Any:
    """A random student.

    Args:
        component: the teacher.
        rows: ids of some prompts, on which the teacher's pooling is found out.
        sizes: fields of `TextStudentConfig`.
        kept: ids that get a row of the token table each; None = all.
        seed: of the weights.

    Raises:
        RecipeError: the teacher pools in a way that no student has.
    """
    from featherweight.models.text_student import TextStudent, TextStudentConfig

    tokenizer = component.host.tokenizer
    pooling, dense = pooling_of(component, rows)
    config = TextStudentConfig(
        vocab_size=component.vocabulary, kept_rows=None if kept is None else len(kept),
        output_size=component.states(rows[:1])[0].shape[1], pooling=pooling, pad_token_id=component.host.pad,
        eos_token_id=tokenizer.eos_token_id, **sizes,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student: Any = TextStudent(config)
    if kept is not None:
        student.tokens.keep(kept)
    if dense is not None:
        student.pooler.load_state_dict(dense.state_dict())
    return student


def start_from_table(student: Any, component: Component, kept: Sequence[int] | None) -> None:
    """Token rows from the principal components of the teacher's, in the student's own scale; changes the student."""
    table = component.embedding
    if table is None:
        return
    wide = table.detach().float()
    centred = wide - wide.mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : student.config.hidden_size]
    narrow = centred @ axes
    narrow = narrow * (student.config.initializer_range / narrow.std())
    chosen = narrow if kept is None else narrow[list(kept)]
    with torch.no_grad():
        student.tokens.weight[: len(chosen), : narrow.shape[1]] = chosen


def pooling_of(component: Component, rows: Sequence[Sequence[int]]) -> tuple[str, Any]:
    """How the teacher pools its token states, found by trying on real prompts; with its dense map where it has one.

    The end token is the tokenizer's: in the configuration of old CLIP models it is wrong.

    Raises:
        RecipeError: its pooled output is none of the known functions of its token states.
    """
    from featherweight.models.text_student import POOLINGS, pool

    ids, mask = padded(rows[:32], component.host.pad)
    output, eos = component.run(ids, mask), component.host.tokenizer.eos_token_id
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        return "none", None
    dense = getattr(getattr(component.exact, "pooler", None), "dense", None)
    known = {"eos": eos is not None, "dense": dense is not None}
    for pooling in (name for name in POOLINGS[1:] if known.get(name, True)):
        head = dense if pooling == "dense" else None
        found = pool(output.last_hidden_state, ids, pooling, eos, head)
        if found is not None and found.shape == pooled.shape and torch.allclose(found, pooled, atol=1e-5):
            return pooling, head
    raise RecipeError(
        f"component {component.name!r} of {component.host.folder}",
        "pools its token states in a way that no student has",
        "distil a component below it that gives token states only",
    )
