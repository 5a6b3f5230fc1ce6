"""Objective: what a sequence network is trained to do without labels. Its fields are its hyper-parameters.

An objective makes a `Task`: the network together with whatever the objective trains beside it (a predictor, a mask's
embedding, a teacher that follows), which gives the loss of a batch. It draws chance from the generator that it is given
and from nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from featherweight.models.sequence_network import SequenceNetwork


class Task(nn.Module, ABC):
    """A network in training.

    Args:
        network: what is trained.
    """

    def __init__(self, network: SequenceNetwork) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def loss(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A scalar.

        Args:
            inputs: what the network's encoder takes, [rows, ...].
            generator: draws negatives and masks.
        """

    def after_update(self, share: float) -> None:
        """Called when the parameters have moved; `share` is how much of the training is done, in (0, 1]."""


class Objective(BaseModel, ABC):
    """Base class.

    Attributes:
        name: what people write.
        causal: whether the backbone must not see the future.
        paper: where it is from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    causal: ClassVar[bool]
    paper: ClassVar[str]

    @abstractmethod
    def task(self, network: SequenceNetwork, generator: torch.Generator) -> Task:
        """The network with what it is trained beside; new weights are drawn from the generator."""


def normalised(states: torch.Tensor) -> torch.Tensor:
    """Each position with mean 0 and variance 1 over its channels, without weights."""
    return nn.functional.layer_norm(states, states.shape[-1:])
