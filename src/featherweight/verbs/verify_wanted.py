"""What a verification was asked for: every option read and checked before anything long is started or written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.budget import parse_margin, parse_memory, parse_share
from featherweight.core.cases import CaseSet, read_cases, user_case
from featherweight.core.chat import prompts
from featherweight.core.data import Documents
from featherweight.core.errors import BudgetError, CheckpointError, EndpointError, OutputError, PolicyError
from featherweight.core.labels import Role
from featherweight.core.policy import Margins, Policy, suite_digest
from featherweight.core.writers import is_address
from featherweight.measure.answers import Generation
from featherweight.measure.labelling import labeller_of
from featherweight.measure.tasks import check_tasks
from featherweight.verbs.layers_wanted import LayersWanted, read_layers
from featherweight.verbs.prepare import Settings, check_device, read_text
from featherweight.verbs.safety import policy_of
from featherweight.verify.quality_section import QualityFloors

DEFAULT_FLOOR = 0.95
ANSWERS, ANSWER_TOKENS = 8, 64
TASK_MARGIN = 0.02


@dataclass(frozen=True)
class Wanted:
    """Checked options; fields are named as those of `verify`.

    Attributes:
        cases: conversations of the generation checks; None = none are wanted.
        documents: the user's text; None = the default text.
        policy: cases and margins of the safety comparison; None = it is not wanted.
        case_sets: the policy's cases.
        layers: how layers are looked at; None = they are not.
    """

    quality: float | None
    domain_quality: float | None
    kl: float | None
    agreement: float | None
    memory: int | float | None
    text: str | Path | None
    documents: Documents | None
    cases: CaseSet | None
    generation: Generation
    tolerance: float
    tasks: tuple[str, ...]
    task_limit: int | None
    task_margin: float
    policy: Policy | None
    case_sets: Mapping[Role, CaseSet]
    layers: LayersWanted | None
    settings: Settings = field(default_factory=Settings)

    def facts(self) -> dict[str, Any]:
        """Everything that results depend on beside models and text, as plain JSON."""
        cases, policy = self.cases, self.policy
        return {
            "quality": self.quality, "domain_quality": self.domain_quality, "kl": self.kl,
            "agreement": self.agreement, "memory": self.memory,
            "cases": None if cases is None else {"digest": cases.digest, "count": len(cases)},
            "generation": self.generation.to_dict(), "tolerance": self.tolerance,
            "tasks": list(self.tasks), "task_limit": self.task_limit, "task_margin": self.task_margin,
            "layers": None if self.layers is None else self.layers.facts(), "seed": self.settings.seed,
            "device": self.settings.device,
            "safety": None if policy is None else {**policy.facts(), "suite": suite_digest(self.case_sets)},
        }  # fmt: skip

    def floors(self, child: str | Path | None) -> QualityFloors:
        """What a child must reach: as asked for, else as its run's budget says, else the defaults."""
        ratio = self.quality if self.quality is not None else DEFAULT_FLOOR if child is None else floor_of(child)
        return QualityFloors.of(ratio, self.domain_quality, self.kl, self.agreement)

    def memory_limit(self, child: str | Path | None, parent_bytes: int) -> int | None:
        """The most bytes of a child: as asked for, else as its run's budget says; None = no limit."""
        if self.memory is None:
            return None if child is None else memory_limit_of(child)
        return int(self.memory * parent_bytes) if isinstance(self.memory, float) else self.memory


def read_wanted(
    *,
    quality: str | float | None,
    domain_quality: str | float | None,
    kl: float | None,
    agreement: str | float | None,
    memory: str | int | None,
    text: str | Path | None,
    answers: int,
    answer_tokens: int,
    questions: str | Path | None,
    tolerance: str | float,
    tasks: Sequence[str],
    task_limit: int | None,
    task_margin: str | float,
    safety: str | Path | Policy | None,
    case_files: Mapping[Role, str | Path],
    margin: str | float | None,
    layers: bool,
    layer_limit: str | float | None,
    layer_labels: str | Path,
    restore: bool,
    timeout: float,
    settings: Settings | None,
) -> Wanted:
    """Reads and checks options; files are read, models are not opened yet.

    Raises:
        BudgetError: a limit makes no sense; DataError: a file cannot be read; MissingExtra: tasks need lm-eval;
        PolicyError: the safety policy cannot be used.
    """
    settings = settings or Settings()
    check_device(settings.device)
    for name, value, least in (("answers", answers, 0), ("answer-tokens", answer_tokens, 1)):
        if value < least:
            raise BudgetError(f"--{name} {value}", f"is less than {least}", f"give {least} or more")
    if kl is not None and not kl >= 0:
        raise BudgetError(f"--kl {kl}", "is no divergence", "give nats a token, 0 or more")
    if task_limit is not None and task_limit < 1:
        raise BudgetError(f"--task-limit {task_limit}", "leaves no question", "give 1 or more")
    if not timeout > 0:
        raise BudgetError(f"--timeout {timeout}", "is no time to wait", "give seconds, more than 0")
    check_tasks(tasks)
    policy = _policy(safety, case_files, margin)
    return Wanted(
        quality=None if quality is None else parse_share(quality, "quality"),
        domain_quality=None if domain_quality is None else parse_share(domain_quality, "domain-quality"),
        kl=kl,
        agreement=None if agreement is None else parse_share(agreement, "agreement"),
        memory=None if memory is None else parse_memory(memory),
        text=text,
        documents=read_text(text),
        cases=_cases(questions, answers),
        generation=Generation(tokens=answer_tokens, seed=settings.seed),
        tolerance=parse_margin(tolerance, "tolerance"),
        tasks=tuple(tasks),
        task_limit=task_limit,
        task_margin=parse_margin(task_margin, "task-margin"),
        policy=policy,
        case_sets={} if policy is None else policy.case_sets(),
        layers=read_layers(layer_limit, layer_labels, restore) if layers or layer_limit is not None else None,
        settings=settings,
    )


def _cases(questions: str | Path | None, answers: int) -> CaseSet | None:
    """The first conversations of a file, or of the prompts that the package ships; None where none are wanted."""
    if not answers:
        return None
    if questions is not None:
        found = read_cases(questions)
        return CaseSet(found.name, found.cases[:answers])
    asked = prompts()[:answers]
    return CaseSet("chat prompts", tuple(user_case(f"prompt {n}", each) for n, each in enumerate(asked, start=1)))


def _policy(
    given: str | Path | Policy | None, files: Mapping[Role, str | Path], margin: str | float | None
) -> Policy | None:
    """The policy of the safety comparison; None where none is wanted."""
    if given is None and not files:
        if margin is not None:
            raise PolicyError(
                f"--margin {margin}", "has no cases to apply to", "give --safety, or --prompts and others"
            )
        return None
    if given is not None and files:
        raise PolicyError("verify", "has both --safety and files of cases", "name the files in the policy, under sets")
    if Role.FRAMED in files and Role.DIRECT not in files:
        raise PolicyError(
            f"--framed {files[Role.FRAMED]}", "asks in other words what no file asks directly", "give --prompts too"
        )
    policy = policy_of(given if given is not None else {role.value: path for role, path in files.items()})
    if margin is not None:
        share = parse_margin(margin, "margin")
        policy = policy.model_copy(update={"margins": Margins(**dict.fromkeys(Margins.model_fields, share))})
    labeller_of(policy)  # an unknown plug-in is named before a model is loaded
    return policy


def check_names(
    children: Sequence[str | Path], engine: str | None, parent_engine: str | None, out: Path | None
) -> None:
    """Refuses names that make no comparison, and an output folder that is taken.

    Raises:
        CheckpointError: no child, one twice, or several for one server; EndpointError: an address that is none;
        OutputError: the folder exists.
    """
    if not children and engine is None:
        raise CheckpointError("verify", "needs a parent and a child", "or give a run with --ledger")
    if engine is not None and len(children) > 1:
        raise CheckpointError(
            f"--engine {engine}", f"serves one model, and {len(children)} are given", "give the one that it serves"
        )
    for url in (engine, parent_engine):
        if url is not None and not is_address(url):
            raise EndpointError(url, "is no address of a server", "write for example http://localhost:8080")
    names = [str(child) for child in children]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CheckpointError(twice, "is given twice", "give each child once")
    if out is not None and out.exists():
        raise OutputError(str(out), "exists already", "choose another folder or remove it")


def floor_of(child: str | Path) -> float:
    """The quality floor of the run that a model belongs to, or the default."""
    return float(_run_facts(child).get("budget", {}).get("quality") or DEFAULT_FLOOR)


def memory_limit_of(child: str | Path) -> int | None:
    """The bytes that the run which a model belongs to was allowed; None where it was not limited."""
    limit = _run_facts(child).get("limits", {}).get("memory")
    return None if limit is None else int(limit)


def _run_facts(child: str | Path) -> dict[str, Any]:
    """The result of the run whose `final` folder, or file in it, a model is; empty where there is none."""
    path = Path(child)
    result = (path.parent.parent if path.is_file() else path.parent) / "result.json"
    if not result.is_file():
        return {}
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found
