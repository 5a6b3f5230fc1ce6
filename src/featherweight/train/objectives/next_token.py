"""Plain next-token cross-entropy of a network whose encoder is an embedding of tokens."""

from __future__ import annotations

from typing import ClassVar

import torch

from featherweight.core.errors import RecipeError
from featherweight.models.grafted import dense_layers
from featherweight.models.sequence_network import SequenceNetwork, TokenEncoder
from featherweight.train.next_token import mean_next_token_loss
from featherweight.train.objectives.base import Objective, Task


class NextToken(Objective):
    """Predicts the next token with a linear head of its own."""

    name: ClassVar[str] = "next-token"
    causal: ClassVar[bool] = True
    paper: ClassVar[str] = ""

    def task(self, network: SequenceNetwork, generator: torch.Generator) -> Task:
        if not isinstance(network.encoder, TokenEncoder):
            raise RecipeError("objective 'next-token'", "needs tokens, and these are signals", "use cpc for signals")
        return _Predicting(network, network.encoder.tokens, generator)


class _Predicting(Task):
    def __init__(self, network: SequenceNetwork, tokens: int, generator: torch.Generator) -> None:
        super().__init__(network)
        self.head = dense_layers([network.width, tokens], generator)

    def loss(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return mean_next_token_loss(self.head(self.network(inputs)), inputs)
