"""A language model that is trained in a minute, and the game against other ways of choosing its FFN channels."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from claims.experiment import SEEDS, Experiment
from featherweight.core.data import TokenSet, tokenize
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.techniques.prune.equilibrium import Equilibrium
from featherweight.techniques.prune.width import Width
from featherweight.testing.tiny import tiny_model
from featherweight.train.loop import Schedule, minimise, shuffled
from featherweight.train.next_token import mean_next_token_loss

KEPT = 0.5


class Language(Experiment):
    """Measures ways of pruning a language model that is trained in a minute."""

    @cached_property
    def model(self) -> Model:
        with TemporaryDirectory() as folder:
            fresh = open_folder(tiny_model(Path(folder), num_hidden_layers=3))
            tokenizer = fresh.tokenizer
            trained = fresh.with_changes(_trained(fresh, tokenize(self.documents["calibration"], tokenizer, 1200, 64)))
            trained.__dict__["tokenizer"] = tokenizer  # the folder goes
            return trained


def _trained(model: Model, tokens: TokenSet) -> dict[str, torch.Tensor]:
    module = model.module()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.06 if parameter.dim() > 1 else torch.ones_like(parameter))
    batch_of = shuffled(len(tokens.ids), 12, torch.Generator().manual_seed(0))

    def loss(step: int) -> torch.Tensor:
        ids = tokens.ids[batch_of(step)]
        return mean_next_token_loss(module(input_ids=ids, use_cache=False).logits, ids)

    minimise(list(module.parameters()), loss, Schedule(250, 5e-3, warmup=20))
    return {name: module.get_parameter(name).detach() for name in model.entries}


def play_language(experiment: Language) -> None:
    """The game against the controls, all without any training of weights."""
    experiment.measure("language model", None, seeds=[0])
    experiment.measure("width", Width(ffn=KEPT, compensate=False))
    experiment.measure("width, updated", Width(ffn=KEPT))
    experiment.measure("magnitude", Equilibrium(ffn=KEPT, choose="magnitude"), seeds=[0])
    experiment.losses["magnitude"] *= len(SEEDS)  # no seed changes it
    experiment.measure("random", Equilibrium(ffn=KEPT, choose="random"))
    experiment.measure("game", Equilibrium(ffn=KEPT, steps=100, rate=0.1))
