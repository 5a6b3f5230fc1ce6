"""What `adapt` leaves behind: the adapter as a PEFT folder that was loaded again, and what was measured of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.adapter_facts import AdapterFacts, write_facts
from featherweight.core.adapter_folder import CONFIG
from featherweight.core.data import TokenSet, default_documents, split_documents, tokenize
from featherweight.core.errors import OutputError
from featherweight.core.lazy import np, torch
from featherweight.core.memory import give_back_memory, peak_memory
from featherweight.core.model import Model
from featherweight.core.packing import PackedRows
from featherweight.core.receipt import surroundings, versions
from featherweight.core.run import Run
from featherweight.core.workspace import Workspace
from featherweight.export.adapter_card import CARD, adapter_card
from featherweight.measure.held_out import HeldOutLoss, compare_losses
from featherweight.measure.quality import Part, Quality, Scores, by_domain, score_parts, summarize
from featherweight.train.adapter_technique import AdapterTechnique
from featherweight.train.checkpoints import Course
from featherweight.train.chunked_head import logit_parts
from featherweight.train.fitted import shape_of
from featherweight.train.held_out import example_losses, final_states
from featherweight.train.next_token import causal_of
from featherweight.verbs.facts import receipt_facts

_RELOADED, _PROBED = 1e-5, 8  # positions whose logits are compared; all tokens before them are read
Logits = Callable[[torch.Tensor], torch.Tensor]
_AGAIN = "reloaded"
_LENGTH = 256


@dataclass(frozen=True)
class Task:
    """What is trained, and on what.

    Attributes:
        name: of the base, as the user wrote it.
        rows: to train on.
        held_out: to judge on.
    """

    name: str
    base: Model
    technique: AdapterTechnique
    rows: PackedRows
    held_out: PackedRows
    run: Run

    @property
    def tokens(self) -> int:
        """How many pass the model at once: in an evaluation no more than in training, which fits a limit."""
        shape = shape_of(self.technique, self.rows)
        return shape.rows * shape.length

    def inputs(self) -> dict[str, Any]:
        """What the result depends on."""
        fields = {name: each for name, each in self.technique.fields().items() if name != "data"}
        return {
            "model": self.base.fingerprint, "technique": self.technique.name, "fields": fields, "seed": self.run.seed,
            "data": {"training": self.rows.digest, "held-out": self.held_out.digest},
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Model, method and data, for people."""
        return {
            "model": {
                "name": self.name, "fingerprint": self.base.fingerprint, "parameters": self.base.parameters,
                "architecture": self.base.architecture.class_name, "blocks": self.base.architecture.blocks,
            },
            "method": self.technique.name,
            "fields": self.technique.fields(),
            "data": {
                name: {
                    "examples": len(each.examples), "rows": len(each), "tokens": each.tokens,
                    "trainable": each.trainable(),
                }
                for name, each in (("training", self.rows), ("held-out", self.held_out))
            },
        }  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What happened in training, how long it took, and what it took of memory against the plan, where there was one."""

    course: Course
    seconds: float
    memory: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Measured:
    """Loss on the held-out samples, and quality relative to the base on other text, by domain and of "all"."""

    loss: HeldOutLoss
    forgetting: Mapping[str, Quality]


def save_adapter(adapted: Any, folder: Path, facts: AdapterFacts, probe: torch.Tensor) -> int:
    """Writes the adapter into a run's folder, where stock PEFT finds it; its configuration comes last.

    Args:
        adapted: PEFT's wrapper of the module.
        folder: of the run; it exists.
        facts: what goes beside the adapter.
        probe: a row of tokens, [1, tokens], on which the file must compute what the module does.

    Returns:
        Bytes of the adapter's weights.

    Raises:
        OutputError: the file cannot be written, or computes something else.
    """
    with tempfile.TemporaryDirectory(prefix=".adapter", dir=folder) as name:
        draft = Path(name)
        adapted.peft_config["default"].base_model_name_or_path = facts.base_name
        adapted.save_pretrained(draft, save_embedding_layers=False)
        (draft / CARD).unlink(missing_ok=True)  # PEFT's is a form to be filled in
        write_facts(draft, facts)
        _check_reload(adapted, draft, probe)
        files = sorted(draft.iterdir(), key=lambda each: (each.name == CONFIG, each.name))
        nbytes = sum(each.stat().st_size for each in files if each.suffix == ".safetensors")
        for each in files:
            each.chmod(0o644)
            os.replace(each, folder / each.name)
    return nbytes


def _check_reload(adapted: Any, draft: Path, probe: torch.Tensor) -> None:
    with torch.inference_mode():
        trained = adapted(input_ids=probe, logits_to_keep=_PROBED).logits
        give_back_memory()
        adapted.load_adapter(str(draft), _AGAIN, is_trainable=False)
        adapted.set_adapter(_AGAIN)
        again = adapted(input_ids=probe, logits_to_keep=_PROBED).logits
        difference = float((again - trained).abs().max())
        adapted.set_adapter("default")
        adapted.delete_adapter(_AGAIN)
    if not difference <= _RELOADED * max(1.0, float(trained.abs().max())):
        raise OutputError(
            str(draft.parent), f"computes logits that differ by {difference:.3g} when loaded again",
            "report this: no adapter was kept",
        )  # fmt: skip


def measure(task: Task, adapted: Any, before: np.ndarray, text: TokenSet) -> Measured:
    """What the adapter brings on the held-out samples, and what it costs on text that they have nothing to do with.

    Args:
        task: the training.
        adapted: the trained module.
        before: losses of the held-out examples before training.
        text: other text.
    """
    after = example_losses(adapted, task.held_out, task.run.device, task.tokens)
    give_back_memory()
    counts = np.array([each.trainable for each in task.held_out.examples])
    loss = compare_losses(before, after, counts, task.run.seed)
    scores = compare_with_base(adapted, text, task.run.device, task.tokens)
    return Measured(loss, {**by_domain(scores, task.run.seed), "all": summarize(scores, task.run.seed)})


def forgetting_text(model: Model, seed: int, rows: int) -> TokenSet:
    """Held-out rows of the default text: prose and code that every Python has."""
    documents = split_documents(default_documents(), seed)["held-out"]
    return tokenize(documents, model.tokenizer, rows, _LENGTH, "the default text (held-out part)")


def compare_with_base(adapted: Any, text: TokenSet, device: str, tokens: int) -> Scores:
    """The adapted model against the same module with its adapter switched off, token by token."""
    child = final_states(adapted, text.ids, device, tokens)
    give_back_memory()
    with adapted.disable_adapter():
        parent = final_states(adapted, text.ids, device, tokens)
    give_back_memory()

    def base_alone(logits: Logits) -> Logits:
        def off(hidden: torch.Tensor) -> torch.Tensor:
            with adapted.disable_adapter():  # the head may have one
                return logits(hidden)

        return off

    parts = (Part(first, size, base_alone(each), each) for first, size, each in logit_parts(causal_of(adapted)))
    return score_parts(parent.to(device), child.to(device), parts, text)


def publish(
    task: Task, adapted: Any, trained: Trained, measured: Measured, inputs: Mapping[str, Any], workspace: Workspace
) -> dict[str, Any]:
    """Receipt and adapter into the run's folder; returns the facts of the run."""
    give_back_memory()
    ledger = workspace.ledger()
    content = {
        "step": "adapt", **inputs, "before": task.base.fingerprint, "losses": trained.course.losses,
        "held_out_loss": measured.loss.to_dict(), "quality": measured.forgetting["all"].to_dict(),
    }  # fmt: skip
    cost: dict[str, Any] = {"seconds": round(trained.seconds, 2), "peak_memory": peak_memory()}
    if trained.memory is not None:
        cost["memory_plan"] = dict(trained.memory)
    receipt = ledger.append_once(content, cost)
    line = {"hash": receipt.digest, "previous": receipt.previous, "content": dict(receipt.content)}
    facts = AdapterFacts(task.base.fingerprint, task.name, task.technique.name, versions()["featherweight"], (line,))
    probe = task.held_out.batch([0]).ids.to(task.run.device)
    nbytes = save_adapter(adapted, workspace.folder, facts, probe)
    result = {
        "kind": "adapter",
        **task.facts(),
        "adapter": {"parameters": _trained_parameters(adapted), "bytes": nbytes},
        "losses": trained.course.losses,
        "held_out": {**measured.loss.to_dict(), "curve": _curve(trained.course, measured.loss)},
        "forgetting": {name: each.to_dict() for name, each in measured.forgetting.items()},
        "ledger": [receipt_facts(each) for each in ledger],
        "receipts": {"count": len(ledger), "head": receipt.digest},
        "environment": {**versions(), **surroundings()},
        "cost": {
            "training_seconds": round(trained.seconds, 2),
            "peak_memory": peak_memory(),
            "memory_plan": trained.memory,
        },
    }
    workspace.write(workspace.folder / CARD, adapter_card(result))
    return result


def _trained_parameters(adapted: Any) -> int:
    return sum(each.numel() for each in adapted.parameters() if each.requires_grad)


def _curve(course: Course, loss: HeldOutLoss) -> list[list[float]]:
    """Updates done and held-out loss, from before the first to after the last."""
    return [[0, loss.before], *([step, each] for step, each in course.held_out.items()), [course.steps, loss.after]]
