"""distill-component: replaces a host's text encoder by a small student of it, and shows what that cost.

Two parts of the log are held out: new phrases of words that were trained on, and phrases with a word that was not.
The folder appears only when it loads again, computes the same, and everything behind the component is the host's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from featherweight.core.errors import CheckpointError, RecipeError, nearest
from featherweight.core.host import Component, open_host
from featherweight.core.progress import Progress
from featherweight.core.prompts import PromptSplit, padded, read_prompts, split_prompts, token_ids
from featherweight.core.receipt import versions
from featherweight.core.run import Run
from featherweight.core.whole import whole_folder
from featherweight.measure.token_cosine import TokenCosine, token_cosine
from featherweight.measure.workload import ContextUse, context_use, context_uses
from featherweight.models.splicing import (
    check_untied,
    load_spliced,
    prove_untouched,
    same_states,
    splice,
    write_spliced,
)
from featherweight.plan.component import context_for
from featherweight.techniques.restructure.distill_component import DistillComponent, check_trainable, distill


@dataclass(frozen=True)
class ComponentResult:
    """What came out.

    Attributes:
        folder: the spliced model.
        before, after: parameters of the component.
        seen, unseen: closeness to the teacher on held-out prompts of known words, and on prompts with a new word.
        untouched: tensors outside the component, all bit-identical.
        prompts: how many were trained on.
        context: tokens of a prompt that the student takes.
        truncated: share of the logged prompts that this cuts.
    """

    folder: Path
    before: int
    after: int
    seen: TokenCosine | None
    unseen: TokenCosine | None
    untouched: int
    prompts: int
    context: int
    truncated: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the folder."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def distill_component(
    host: str | Path,
    component: str,
    prompts: str | Path,
    out: str | Path,
    *,
    settings: DistillComponent | None = None,
    held_out: float = 0.1,
    withhold: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> ComponentResult:
    """Distils a component on a prompt log and writes the host with the student in its place.

    Args:
        host: a Hugging Face folder of a stock class.
        component: the encoder's place in it; "." replaces the whole model.
        prompts: a .txt file with one prompt a line, or .jsonl.
        out: the folder to write.
        settings: sizes and training of the student; a context that is not set is the one that an audit recommends.
        held_out: share of the different prompts kept for judging known words.
        withhold: share of the different prompts given up for judging new words.
        seed: of every random choice.
        progress: shows what is going on.

    Raises:
        FeatherweightError: the host, the component, the log or a setting does not do, or the result is not what it
            should be; nothing is kept then.
    """
    run, log = Run(seed=seed, progress=progress or Progress()), read_prompts(prompts)
    split = split_prompts(log, held_out, withhold, seed)
    part = open_host(host).component(component)
    settings, use = with_context(settings or DistillComponent(), part, log)
    check_untied(part)
    check_trainable(part, split.train, settings)
    with whole_folder(Path(out)) as draft:  # opened before the long part, which a full or read-only disk would waste
        student = distill(part, split.train, settings, run).student
        write_spliced(splice(part, student), part.host, settings.context, draft)
        _check_loads(draft, part, student, split)
        result = ComponentResult(
            Path(out), part.parameters, sum(each.numel() for each in student.parameters()),
            closeness(part, student, split.seen), closeness(part, student, split.unseen),
            prove_untouched(part, draft), len(split.train), use.context, use.truncated,
        )  # fmt: skip
        facts = {"component": component, "settings": settings.model_dump(), "seed": seed, "versions": versions()}
        facts |= result.to_dict()
        (draft / "distillation.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return result


def with_context(
    settings: DistillComponent, component: Component, prompts: Sequence[str]
) -> tuple[DistillComponent, ContextUse]:
    """Settings with a context, by recommendation where none was set, and what it does to the prompts."""
    lengths = [len(row) for row in token_ids(prompts, component.host.tokenizer)]
    if "context" in settings.model_fields_set:
        return settings, context_use(lengths, settings.context)
    use = context_for(context_uses(lengths, component.context))
    return DistillComponent(**{**settings.model_dump(exclude_unset=True), "context": use.context}), use


def closeness(component: Component, student: Any, prompts: list[str]) -> TokenCosine | None:
    """How close a student's token states are to the component's on prompts, both at the student's context."""
    rows = token_ids(prompts, component.host.tokenizer, student.config.context) if prompts else []
    return token_cosine(replace(component, module=student).states(rows), component.states(rows))


def _check_loads(folder: Path, component: Component, student: Any, split: PromptSplit) -> None:
    """The folder loads in a fresh object whose component computes what the student does."""
    rows = token_ids(split.train[:16], component.host.tokenizer, student.config.context)
    if not same_states(load_spliced(folder), component, student, *padded(rows, component.host.pad)):
        raise CheckpointError(str(folder), "does not compute what was trained", "report this, with both folders")


def read_settings(assignments: Sequence[str]) -> DistillComponent:
    """Settings from "width=256" and the like.

    Raises:
        RecipeError: not an assignment, an unknown field, or a value out of range.
    """
    fields: dict[str, Any] = {}
    for each in assignments:
        name, equals, value = each.partition("=")
        if not equals or name not in DistillComponent.model_fields:
            known = DistillComponent.model_fields
            hint = nearest(name, known) or f"use one of {', '.join(known)}"
            raise RecipeError(f"--set {each}", "sets no field of a student", hint)
        fields[name] = yaml.safe_load(value)
    try:
        return DistillComponent(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"--set {where}={first['input']}", first["msg"].lower(), "give another value") from None
