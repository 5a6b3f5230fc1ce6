"""The parts of a verification, in the order in which they are looked at: each gives its sections, or none.

One more part is one more line in `PARTS`.
"""

from __future__ import annotations

from collections.abc import Callable

from featherweight.core.budget import format_bytes
from featherweight.core.errors import FormatError
from featherweight.core.model import Model
from featherweight.export.exporters import exporter
from featherweight.measure.quality import by_domain, compare, summarize
from featherweight.measure.served_answers import differences
from featherweight.measure.task_items import task_items
from featherweight.verbs.verify_subjects import Child
from featherweight.verify.gate import Check, Verdict, tokenizer_check
from featherweight.verify.generation_section import answered_cases, generation_section
from featherweight.verify.layer_audit import layers_section
from featherweight.verify.quality_section import quality_section
from featherweight.verify.section import Section
from featherweight.verify.served_section import served_section
from featherweight.verify.task_section import task_section

Part = Callable[[Child], list[Section]]

# Where tokenizers go wrong: spaces, digits, case, code, accents, scripts, emoji, line ends.
_STRINGS = (
    "Hello world", "a  12   345", "def f(x):\n\treturn x ** 2\r\n", "naïve café über straße", "日本語と中文", "🙂👍🏽",
    "$3.50 & 100%", "  leading and trailing  ", "don't can't I'LL", "مرحبا", "x" * 40,
)  # fmt: skip


def tokens_part(child: Child) -> list[Section]:
    """Whether both models read text as the same tokens; where they do not, nothing else is looked at."""
    if child.model is None:
        return []
    return [Section("tokens", (tokenizer_check(same_tokens(child.parent.model, child.model)),))]


def bytes_part(child: Child) -> list[Section]:
    """Bytes against their limit, where there is one."""
    limit = child.parent.wanted.memory_limit(child.path, parent_bytes(child.parent.model))
    if limit is None or child.bytes is None:
        return []
    over = child.bytes - limit
    verdict = Verdict.FAIL if over > 0 else Verdict.PASS
    reason = f"{over} bytes over" if over > 0 else f"{-over} bytes to spare"
    check = Check("bytes", f"at most {format_bytes(limit)}", format_bytes(child.bytes), verdict, reason)
    return [Section("bytes", (check,), {"bytes": child.bytes, "limit": limit})]


def quality_part(child: Child) -> list[Section]:
    """Perplexity, KL and agreement on held-out text."""
    if child.model is None:
        return []
    parent = child.parent
    scores = compare(parent.model, child.model, parent.rows.held_out, parent.run)
    return [quality_section(summarize(scores), by_domain(scores), parent.wanted.floors(child.path))]


def generation_part(child: Child) -> list[Section]:
    """Greedy answers to chat prompts; those of a server are also compared with those of its file."""
    parent, cases = child.parent, child.parent.wanted.cases
    if cases is None:
        return []
    generation, tolerance = parent.wanted.generation, parent.wanted.tolerance
    asked, answers = parent.answers(cases, generation), child.answers(cases, generation)
    answered = answered_cases(cases.cases, asked, answers, parent.special)
    sections = [generation_section(answered, tolerance)]
    if child.engine is not None and child.model is not None:
        own = child.file_answers(cases, generation)
        of_file = answered_cases(cases.cases, asked, own, parent.special)
        sections.append(generation_section(of_file, tolerance, "generation, file"))
        sections.append(served_section(own, answers, differences(child.model, cases.cases, own, answers)))
    return sections


def tasks_part(child: Child) -> list[Section]:
    """Benchmark tasks of lm-evaluation-harness, question by question."""
    parent, wanted = child.parent, child.parent.wanted
    if child.model is None or not wanted.tasks:
        return []
    items = task_items(parent.model, child.model, wanted.tasks, parent.run, wanted.task_limit)
    return [task_section(items, wanted.task_margin, child.same)]


def safety_part(child: Child) -> list[Section]:
    """What of the parent's refusals and usefulness was lost, on the user's cases."""
    safety = child.parent.safety
    return [] if safety is None else [safety.section(child.connector(), child.folder)]


def layers_part(child: Child) -> list[Section]:
    """At which layer the child begins to reason otherwise than its parent; the monitor of requests is kept."""
    parent, wanted = child.parent, child.parent.wanted
    if child.model is None or wanted.layers is None:
        return []
    fit, audit = wanted.layers.rows(parent.model, parent.run.seed, lambda: parent.rows)
    section = layers_section(
        parent.model, child.model, fit, audit, parent.run, limit=wanted.layers.limit, restore=wanted.layers.restore,
        monitor=child.monitor,
    )  # fmt: skip
    return [section]


PARTS: tuple[Part, ...] = (bytes_part, quality_part, generation_part, tasks_part, safety_part, layers_part)


def sections_of(child: Child) -> tuple[Section, ...]:
    """What all parts say of a child; a child that reads text otherwise than its parent is looked at no further."""
    found = tokens_part(child)
    if any(section.verdict is Verdict.FAIL for section in found):
        return tuple(found)
    return (*found, *(section for part in PARTS for section in part(child)))


def same_tokens(one: Model, other: Model) -> bool:
    """Whether two models' tokenizers agree on strings where tokenizers usually differ."""
    return all(
        one.tokenizer(text, add_special_tokens=False)["input_ids"]
        == other.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in _STRINGS
    )


def parent_bytes(model: Model) -> int:
    """Bytes of the parent as a bf16 GGUF file, of which shares of memory are meant; of its tensors if it has none."""
    try:
        return exporter("gguf").file_bytes(model)
    except FormatError:
        return model.bf16_bytes()
