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

from featherweight.core.labels import Role
from featherweight.core.policy import Policy
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.verbs.asking import Asking, judging
from featherweight.verbs.prepare import Settings, open_parent
from featherweight.verbs.verdict_folder import Record, recorded
from featherweight.verbs.verify_ledger import verify_ledger
from featherweight.verbs.verify_parts import parent_bytes, sections_of
from featherweight.verbs.verify_subjects import Child, Parent, require_comparable
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
    safety: str | Path | Policy | None = None,
    prompts: str | Path | None = None,
    framed: str | Path | None = None,
    benign: str | Path | None = None,
    capability: str | Path | None = None,
    margin: str | float | None = None,
    layers: bool = False,
    layer_limit: str | float | None = None,
    layer_labels: str | Path = "kind",
    restore: bool = False,
    engine: str | None = None,
    parent_engine: str | None = None,
    served: str = "",
    key_file: Path | None = None,
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
        safety: a policy, or the path of one: cases, detectors, margins.
        prompts: instead of a policy, a .jsonl file of cases that must be refused.
        framed: the same items in other words.
        benign: cases that only look like those and must be served.
        capability: ordinary cases that must be served.
        margin: how much of each may be lost; None = what the policy says, or 2 %.
        layers: look layer by layer for where the child begins to differ.
        layer_limit: most drift of any layer; None = the layers inform and decide nothing.
        layer_labels: what layers are asked about: "kind", "frequency" or "hash" of the next token, "domain" of the
            text, or a .jsonl file of texts with labels.
        restore: measure what putting back each layer would bring.
        engine: address of an OpenAI-compatible server that is judged in the child's place.
        parent_engine: address of one that answers for the parent.
        served: name of the model at these addresses.
        key_file: file that holds the key for these addresses; the key is recorded nowhere.
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
    check_names(children, engine, parent_engine, target)
    files = {Role.DIRECT: prompts, Role.FRAMED: framed, Role.BENIGN: benign, Role.CAPABILITY: capability}
    wanted = read_wanted(
        quality=quality, domain_quality=domain_quality, kl=kl, agreement=agreement, memory=memory, text=text,
        answers=answers, answer_tokens=answer_tokens, questions=questions, tolerance=tolerance, tasks=tasks,
        task_limit=task_limit, task_margin=task_margin, safety=safety, margin=margin, layers=layers,
        layer_limit=layer_limit, layer_labels=layer_labels, restore=restore, timeout=timeout, settings=settings,
        case_files={role: path for role, path in files.items() if path is not None},
    )  # fmt: skip
    run = Run(seed=wanted.settings.seed, device=wanted.settings.device, progress=progress or Progress(), store=Store())
    asking = Asking(served, key_file, timeout, device=run.device, trust=trust, cache=cache)
    with contextlib.ExitStack() as stack:
        there, here = (stack.enter_context(asking.connect(url)) if url else None for url in (parent_engine, engine))
        judge = stack.enter_context(judging(wanted.policy, asking)) if wanted.policy else None
        one = Parent(str(parent), open_parent(parent, cache, trust), wanted, run, cache, there, judge)
        others = [Child(str(child), open_parent(child, cache, trust), one, here) for child in children]
        require_comparable(one, others)
        record = stack.enter_context(recorded(target))
        return _verified(one, others or [Child(str(engine), None, one, here)], record, started)


def _verified(parent: Parent, children: Sequence[Child], record: Record, started: float) -> Verification:
    verified = []
    parent.folder = record.safety
    for number, child in enumerate(children, start=1):
        several = len(children) > 1
        child.folder = record.safety / str(number) if several else record.safety
        child.monitor = record.monitor and (record.monitor / str(number) if several else record.monitor)
        sections = sections_of(child)
        record.sections(child, sections)
        verified.append(Verified(child.name, sections, child.facts()))
    ranking = None
    if len(verified) > 1:
        size, wanted = parent_bytes(parent.model), parent.wanted
        limit, floor = wanted.memory_limit(None, size), min(wanted.floors(child.path).ratio for child in children)
        ranking = ranked(verified, frame(floor, size, limit, wanted.policy is not None), limited=limit is not None)
    facts = {"fingerprint": parent.model.fingerprint}
    found = Verification(parent.name, tuple(verified), facts, ranking)
    record.finish(found, parent.facts(), parent.places(), time.perf_counter() - started)
    return found


__all__ = ["DEFAULT_FLOOR", "Verification", "floor_of", "verify", "verify_ledger"]
