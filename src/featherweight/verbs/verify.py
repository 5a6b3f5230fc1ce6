"""verify: is this model still as good, as well-behaved and as safe as its parent, and which of several is best?

    verify("base", "child")                                   # quality and generation, in a minute
    verify("base", "a", "b", memory="92MB")                   # which one?
    verify("base", "child.gguf", engine="http://localhost:8080")   # what is served, and whether it is that file
    verify("base", "child", tasks=["python-docs"], out="verdict/")

Each part says pass, fail or cannot tell of each of its checks, with the reason (`verbs.verify_parts`). All inputs are
read before anything long is started; `out` appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.measure.connectors.connect import connect
from featherweight.verbs.prepare import Settings, open_parent
from featherweight.verbs.verdict_folder import Record, recorded
from featherweight.verbs.verify_ledger import verify_ledger
from featherweight.verbs.verify_parts import parent_bytes, sections_of
from featherweight.verbs.verify_subjects import Child, Parent
from featherweight.verbs.verify_wanted import (
    ANSWER_TOKENS,
    ANSWERS,
    DEFAULT_FLOOR,
    TASK_MARGIN,
    check_names,
    floor_of,
    read_wanted,
)
from featherweight.verify.generation_section import TOLERANCE
from featherweight.verify.selection import frame, ranked
from featherweight.verify.verification import Verification, Verified


def verify(
    parent: str | Path,
    *children: str | Path,
    quality: str | float | None = None,
    domain_quality: str | float | None = None,
    kl: float | None = None,
    agreement: str | float | None = None,
    memory: str | int | None = None,
    text: str | Path | None = None,
    answers: int = ANSWERS,
    answer_tokens: int = ANSWER_TOKENS,
    questions: str | Path | None = None,
    tolerance: str | float = TOLERANCE,
    tasks: Sequence[str] = (),
    task_limit: int | None = None,
    task_margin: str | float = TASK_MARGIN,
    engine: str | None = None,
    parent_engine: str | None = None,
    served: str = "",
    key: str = "",
    timeout: float = 60.0,
    out: str | Path | None = None,
    settings: Settings | None = None,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compares children with their parent.

    Args:
        parent: the model to compare with.
        children: model folders, .gguf files or the `final` folders of runs; none where only a server is judged.
        quality: least parent perplexity / child perplexity; None = the run's own budget, or 95 %.
        domain_quality: the same for each domain; None = ten points less.
        kl: most KL divergence, nats a token; None = ten times what the floor of quality allows to be lost.
        agreement: least share of equal most likely tokens; None = 35 points below the floor of quality.
        memory: most bytes, or a share of the parent in bf16; None = the run's own budget, or no limit.
        text: a .txt or .jsonl file; None = the default text.
        answers: how many conversations are answered by both models; 0 = none.
        answer_tokens: the most tokens of an answer.
        questions: a .jsonl file of conversations; None = the package's own prompts.
        tolerance: share of answers in which repetition or a missing end of turn may be new.
        tasks: lm-evaluation-harness tasks, or "python-docs".
        task_limit: questions a task; None = all.
        task_margin: how much a task's mean may fall.
        engine: address of an OpenAI-compatible server that is judged in the child's place.
        parent_engine: address of one that answers for the parent.
        served: name of the model at these addresses.
        key: for these addresses; it is recorded nowhere.
        timeout: seconds until a silent server counts as dead.
        out: a folder for the record; it must not exist.
        settings: how much text is read, seed, device.
        trust: allow pickled weights.
        cache: where converted models and answers are kept.
        progress: shows what is going on.

    Raises:
        FeatherweightError: an input that cannot be read or makes no sense; nothing is written then.
    """
    started, target = time.perf_counter(), None if out is None else Path(out)
    check_names(parent, children, engine, target)
    wanted = read_wanted(
        quality=quality, domain_quality=domain_quality, kl=kl, agreement=agreement, memory=memory, text=text,
        answers=answers, answer_tokens=answer_tokens, questions=questions, tolerance=tolerance, tasks=tasks,
        task_limit=task_limit, task_margin=task_margin, settings=settings,
    )  # fmt: skip
    run = Run(seed=wanted.settings.seed, device=wanted.settings.device, progress=progress or Progress(), store=Store())
    with contextlib.ExitStack() as stack:
        there, here = (
            stack.enter_context(connect(url, served=served, key=key, timeout=timeout)) if url else None
            for url in (parent_engine, engine)
        )
        one = Parent(str(parent), open_parent(parent, cache, trust), wanted, run, cache, there)
        others = [Child(str(child), open_parent(child, cache, trust), one, here) for child in children]
        record = stack.enter_context(recorded(target))
        return _verified(one, others or [Child(str(engine), None, one, here)], record, started)


def _verified(parent: Parent, children: Sequence[Child], record: Record, started: float) -> Verification:
    verified = []
    for child in children:
        sections = sections_of(child)
        record.sections(child, sections)
        verified.append(Verified(child.name, sections, child.facts()))
    ranking = None
    if len(verified) > 1:
        size, wanted = parent_bytes(parent.model), parent.wanted
        limit, floor = wanted.memory_limit(None, size), min(wanted.floors(child.path).ratio for child in children)
        ranking = ranked(verified, frame(floor, size, limit), limited=limit is not None)
    facts = {"fingerprint": parent.model.fingerprint}
    found = Verification(parent.name, tuple(verified), facts, ranking)
    record.finish(found, parent.facts(), time.perf_counter() - started)
    return found


__all__ = ["DEFAULT_FLOOR", "Verification", "floor_of", "verify", "verify_ledger"]
