"""The two sides of a verification: the parent, measured once for all children, and a child with who answers for it.

A child may be a file, a server, or both: then the server is what is deployed, and the file says what it should answer.
A model's module is in memory only while it answers. Answers of a file are kept in the cache under everything that they
depend on; a server is asked anew each time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.cases import CaseSet
from featherweight.core.errors import CheckpointError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.measure.answers import Answer, Connector, Generation, ask
from featherweight.measure.connectors.connect import connect, gguf_of, in_process
from featherweight.report.safety_rows import Places, places_of
from featherweight.verbs.paired_safety import SafetyParent
from featherweight.verbs.prepare import Rows, cache_folder, token_rows
from featherweight.verbs.verify_wanted import Wanted

ADJUDICATIONS = "adjudications.jsonl"


@dataclass
class Parent:
    """The model to compare with.

    Attributes:
        name: as it was given.
        model: the model.
        wanted: what is asked for.
        run: device, seed, progress, and a store that lives as long as the verification.
        cache: where converted models and answers are kept.
        engine: a server that answers for it; None = the model itself does.
        judge: the model of the policy's judge; None = there is none.
        folder: where receipts of the safety comparison are kept.
    """

    name: str
    model: Model
    wanted: Wanted
    run: Run
    cache: Path | None = None
    engine: Connector | None = None
    judge: Connector | None = None
    folder: Path = Path()

    @functools.cached_property
    def rows(self) -> Rows:
        """Text as tokens; its held-out part is text that no model was made with."""
        wanted, cache = self.wanted, cache_folder(self.cache)
        return token_rows(self.model, wanted.documents, wanted.settings, self.run.progress, cache, wanted.text)

    @functools.cached_property
    def kept(self) -> Store:
        """Answers of earlier verifications."""
        return Store(cache_folder(self.cache) / "measurements")

    @functools.cached_property
    def special(self) -> tuple[str, ...]:
        """Texts of the special tokens, which no answer should hold."""
        return tuple(map(str, self.model.tokenizer.all_special_tokens))

    def facts(self) -> dict[str, Any]:
        """What was asked for, on which text, and who answered; plain JSON."""
        text = self.rows.held_out.digest if "rows" in self.__dict__ else None
        served = None if self.engine is None else dict(self.engine.facts)
        return {**self.wanted.facts(), "text": text, "parent_served": served}

    @functools.cached_property
    def safety(self) -> SafetyParent | None:
        """The safety comparison, for which the parent is asked once; None where it is not wanted."""
        if self.wanted.policy is None:
            return None
        return SafetyParent(
            self.connector(), self.wanted.policy, self.folder, self.judge,
            adjudications=cache_folder(self.cache) / ADJUDICATIONS, progress=self.run.progress,
            sets=self.wanted.case_sets,
        )  # fmt: skip

    def places(self) -> Places:
        """Where the cases of the safety comparison are declared."""
        policy = self.wanted.policy
        return {} if policy is None else places_of(self.wanted.case_sets, policy.sets.paths())

    def connector(self) -> Connector:
        """Who answers for the parent."""
        return self.engine or in_process(self.name, self.model, self.run.device)

    def answers(self, cases: CaseSet, generation: Generation) -> list[Answer]:
        """Its answers; those of the model itself are drawn once."""
        if self.engine is not None:
            return drawn(self.engine, cases, generation, self.run, f"{self.name} is asked")
        return kept_answers(self.connector(), cases, generation, self.run, self.kept, f"{self.name} answers")


@dataclass
class Child:
    """The model to judge.

    Attributes:
        name: as it was given; the server's address where there is no file.
        model: the file; None = there is only a server.
        parent: what it is compared with.
        engine: a server that answers for it; None = the file does.
        folder: where receipts of the safety comparison are kept.
        monitor: where the monitor of its requests is written; None = it is not kept.
    """

    name: str
    model: Model | None
    parent: Parent
    engine: Connector | None = None
    folder: Path = Path()
    monitor: Path | None = None

    @property
    def path(self) -> str | None:
        """Where the file is; None where there is none."""
        return None if self.model is None else self.name

    @property
    def same(self) -> bool:
        """Whether it is its parent."""
        return self.model is not None and self.model.fingerprint == self.parent.model.fingerprint

    @functools.cached_property
    def bytes(self) -> int | None:
        """Bytes of its weights on disk."""
        return None if self.model is None else weight_bytes(self.name, self.model)

    def facts(self) -> dict[str, Any]:
        """What identifies it, as plain JSON."""
        known: dict[str, Any] = {} if self.engine is None else {"served": dict(self.engine.facts)}
        return known if self.model is None else {"fingerprint": self.model.fingerprint, "bytes": self.bytes, **known}

    def connector(self) -> Connector:
        """Who answers for what is deployed."""
        if self.engine is not None:
            return self.engine
        assert self.model is not None  # one of both is there
        return in_process(self.name, self.model, self.parent.run.device)

    def answers(self, cases: CaseSet, generation: Generation) -> list[Answer]:
        """Answers of what is deployed: the server's where there is one."""
        if self.engine is not None:
            return drawn(self.engine, cases, generation, self.parent.run, f"{self.engine.facts.get('url')} is asked")
        run, kept = self.parent.run, self.parent.kept
        return kept_answers(self.connector(), cases, generation, run, kept, f"{self.name} answers")

    def file_answers(self, cases: CaseSet, generation: Generation) -> list[Answer]:
        """Answers of the file in the runtime that it is for."""
        run, kept = self.parent.run, self.parent.kept
        path = Path(self.name)
        label = f"{self.name} answers"
        if gguf_of(path) is None:
            assert self.model is not None  # asked for where there is a file
            return kept_answers(in_process(path, self.model, run.device), cases, generation, run, kept, label)
        with connect(path) as connector:
            return kept_answers(connector, cases, generation, run, kept, label)


def require_comparable(parent: Parent, children: Sequence[Child]) -> None:
    """Refuses what would only come to light later: another vocabulary, and text of the user's that is too short.

    Raises:
        CheckpointError: a child predicts other tokens; DataError: there is too little text.
    """
    expected = int(parent.model.settings["vocab_size"])
    for child in children:
        found = expected if child.model is None else int(child.model.settings["vocab_size"])
        if found != expected:
            raise CheckpointError(
                child.name, f"predicts {found} tokens where its parent predicts {expected}",
                "give a model that was made from this parent",
            )  # fmt: skip
    if children and parent.wanted.documents is not None:
        _ = parent.rows


def drawn(connector: Connector, cases: CaseSet, generation: Generation, run: Run, label: str) -> list[Answer]:
    """One answer a case."""
    answers = []
    with run.progress.track(label, len(cases)) as advance:
        for answer in ask(connector, [case.messages for case in cases], generation):
            answers.append(answer)
            advance()
    return answers


def kept_answers(
    connector: Connector, cases: CaseSet, generation: Generation, run: Run, kept: Store, label: str
) -> list[Answer]:
    """The same, drawn once for one model, one set of cases and one way of drawing."""
    facts = {"model": connector.facts, "cases": cases.digest, "generation": generation.to_dict()}

    def draw() -> list[dict[str, Any]]:
        return [dict(answer.__dict__) for answer in drawn(connector, cases, generation, run, label)]

    found = kept.json("answers", facts, draw)
    return [Answer(**{**each, "special": tuple(each["special"])}) for each in found]


def weight_bytes(name: str | Path, model: Model) -> int:
    """Bytes of a model's weights on disk: of its GGUF file, or of the safetensors of its folder."""
    file = gguf_of(Path(name))
    if file is not None:
        return file.stat().st_size
    shards: Sequence[Path] = sorted(model.folder.glob("*.safetensors"))
    return sum(path.stat().st_size for path in shards) or model.nbytes
