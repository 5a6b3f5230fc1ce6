"""Refines the best recipe with Optuna: GPTQ's damping, and how much the sensitivity table is trusted for each part.

The study lies in the run folder (SQLite); a killed search goes on where it stopped. Each proposal depends on the seed
and on the finished trials only, so an interrupted search and an uninterrupted one propose the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featherweight.core.errors import OutputError
from featherweight.core.lazy import optuna
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Technique, build
from featherweight.plan.candidates import Candidate

_PARTS = {"embedding": "*embed_tokens*", "attention": "*self_attn*", "down": "*down_proj*"}


def refine(
    best: Candidate, trials: int, evaluate: Callable[[Candidate], float], seed: int, storage: Path | None
) -> list[Candidate]:
    """Runs `trials` variations of a candidate and returns them in the order in which they were run.

    Args:
        best: the candidate to vary; its own settings are the first trial.
        trials: variations to run beside it.
        evaluate: gives the damage (KL, nats) of a candidate.
        seed: of the proposals.
        storage: the SQLite file; None keeps the study in memory.

    Raises:
        OutputError: the file cannot be written.
    """
    with _named(storage):
        return _refine(best, trials, evaluate, seed, storage)


def _refine(
    best: Candidate, trials: int, evaluate: Callable[[Candidate], float], seed: int, storage: Path | None
) -> list[Candidate]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=best.name,
        storage=None if storage is None else f"sqlite:///{storage}",
        direction="minimize",
        load_if_exists=True,
    )
    _requeue_killed(study)
    done: list[Candidate] = []
    for finished in _complete(study):
        done.append(_variant(best, finished.params))
    if not study.trials:
        study.enqueue_trial(_neutral(best))
    while len(_complete(study)) < trials + 1:
        count = len(_complete(study))
        study.sampler = optuna.samplers.TPESampler(seed=seed * 1000 + count, n_startup_trials=4)
        trial = study.ask()
        variant = _variant(best, _suggest(trial, best))
        study.tell(trial, evaluate(variant))
        done.append(variant)
    return done


@contextmanager
def _named(storage: Path | None) -> Iterator[None]:
    """Says which file could not be written: a full disk is no OSError to a database."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).splitlines()[0]
        raise OutputError(str(storage), f"could not be written ({reason})", "free some space and run again") from error


def _complete(study: Any) -> list[Any]:
    return list(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))


def _requeue_killed(study: Any) -> None:
    """A trial that was running when the process died is marked failed; its proposal comes again by itself."""
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if not _complete(study):
            study.enqueue_trial(trial.params)


def _neutral(best: Candidate) -> dict[str, Any]:
    settings: dict[str, Any] = {f"favour {part}": 1.0 for part in _PARTS}
    return {**settings, "damping": 0.01} if best.rounding == "gptq" else settings


def _suggest(trial: Any, best: Candidate) -> dict[str, Any]:
    settings = {f"favour {part}": trial.suggest_float(f"favour {part}", 0.5, 2.0, log=True) for part in _PARTS}
    if best.rounding == "gptq":
        settings["damping"] = trial.suggest_float("damping", 0.002, 0.1, log=True)
    return settings


def _variant(best: Candidate, settings: dict[str, Any]) -> Candidate:
    steps: list[Technique] = []
    for step in best.recipe:
        fields = step.model_dump(mode="json", exclude_defaults=True)
        if step.name == "mixed-precision":
            favour = {pattern: round(settings[f"favour {part}"], 4) for part, pattern in _PARTS.items()}
            fields["favour"] = {pattern: value for pattern, value in favour.items() if value != 1.0}
        if step.name == "gptq":
            fields["damping"] = round(settings["damping"], 5)
        steps.append(build(step.name, fields))
    return Candidate(
        Recipe(tuple(steps)), best.cut, best.rounding, best.memory, best.cut_kl, best.round_kl, best.formats
    )
