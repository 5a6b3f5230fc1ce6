"""Two small settings in which adapters of nested ranks are trained in seconds, and the ways of training them.

"Teacher": one linear layer learns a matrix of known singular values 2^(-i/2), so the best that any rank can do is known
(R^2 of the truncated matrix). "Language": a two-block Llama of width 48 that has learnt one random Markov language of
32 tokens learns a related one for a short time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import torch
import transformers

from featherweight.measure.rank_curve import truncated
from featherweight.models.matryoshka_config import MatryoshkaLoraConfig
from featherweight.techniques.adapt.matryoshka_lora import MatryoshkaLora
from featherweight.train.loop import Schedule, minimise

RANK = 16
RANKS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Way:
    """One training, and how it is served.

    Attributes:
        technique: says the objective; its steps and rate are the setting's.
        served: names of what it is measured as: "dropped", "kept", "truncated", "by SVD".
    """

    technique: MatryoshkaLora
    served: tuple[str, ...] = ("dropped",)


def ways(scaling: str) -> dict[str, Way]:
    """What is compared, by name."""
    every = {"rank": RANK, "scaling": scaling}
    return {
        "LoRA": Way(MatryoshkaLora(**every, ranks=(RANK,)), ("truncated", "by SVD")),
        "DyLoRA": Way(MatryoshkaLora(**every, objective="sampled")),
        "DyLoRA, frozen": Way(MatryoshkaLora(**every, objective="sampled", frozen=True)),
        "paper": Way(MatryoshkaLora(**every, objective="sum_of_outputs"), ("dropped", "kept")),
        "nested losses": Way(MatryoshkaLora(**every, objective="sum_of_losses")),
    }


def configured(technique: MatryoshkaLora, targets: str) -> MatryoshkaLoraConfig:
    """What PEFT gets for a module that is no `Model`; `targets` is a regular expression."""
    return MatryoshkaLoraConfig(
        r=technique.rank, ranks=list(technique.nested_ranks), scaling=technique.scaling,
        objective=technique.objective, frozen=technique.frozen, init=technique.init, target_modules=targets,
    )  # fmt: skip


@contextmanager
def serving(adapted: Any, how: str, rank: int) -> Iterator[None]:
    """An adapter that is served in one of the ways, at a rank."""
    config = adapted.peft_config["default"]
    before, config.serve = config.serve, "keep_weight" if how == "kept" else "drop_weight"
    try:
        if how == "by SVD":
            with truncated(adapted, rank):
                yield
        else:
            with adapted.at_rank(rank):
                yield
    finally:
        config.serve = before


def trained(
    module: torch.nn.Module,
    way: Way,
    targets: str,
    draw: Callable[[torch.Generator], torch.Tensor],
    loss: Callable[[Any, torch.Tensor], torch.Tensor],
    schedule: Schedule,
    seed: int,
) -> Any:
    """The module with an adapter trained in a way; every way sees the same start and the same batches of a seed.

    Args:
        module: it is changed.
        way: how to train.
        targets: regular expression of the names of its linears.
        draw: a batch; every rank of a step sees the same.
        loss: of the adapted module on a batch.
        schedule: steps and rates.
        seed: of the start, the batches and the draws of ranks.
    """
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(module, configured(way.technique, targets))
    batches, ranks = (torch.Generator().manual_seed(offset + seed) for offset in (1000, 2000))

    def step(_: int) -> torch.Tensor:
        return way.technique.step_loss(adapted, partial(loss, adapted, draw(batches)), ranks)

    minimise([each for each in adapted.parameters() if each.requires_grad], step, schedule, clip=None)
    return adapted.eval()


@dataclass(frozen=True)
class Teacher:
    """A matrix to be learnt, [32, 32], of 16 singular values 2^(-i/2)."""

    matrix: torch.Tensor

    @classmethod
    def drawn(cls, seed: int) -> Teacher:
        """With random singular vectors."""
        generator = torch.Generator().manual_seed(seed)
        u, v = (torch.linalg.qr(torch.randn(32, 32, generator=generator))[0][:, :RANK] for _ in range(2))
        return cls(u * 2.0 ** (-torch.arange(RANK) / 2) @ v.T)

    @property
    def best(self) -> list[float]:
        """R^2 of the best approximation of each rank."""
        squares = torch.linalg.svdvals(self.matrix)[:RANK].square()
        return [float(squares[:rank].sum() / squares.sum()) for rank in RANKS]

    def learnt(self, way: Way, seed: int, steps: int = 1500) -> Mapping[str, list[float]]:
        """R^2 at each rank, by how it is served; Adam 1e-2, 64 random inputs a step."""
        layer = torch.nn.Sequential(torch.nn.Linear(32, 32, bias=False))
        torch.nn.init.zeros_(layer[0].weight)

        def loss(adapted: Any, x: torch.Tensor) -> torch.Tensor:
            return (adapted(x) - x @ self.matrix.T).square().sum(1).mean()

        schedule = Schedule(steps, 1e-2, decay="none")
        adapted = trained(layer, way, "0", partial(_inputs, 64), loss, schedule, seed)
        return {how: [self._fit(adapted, how, rank) for rank in RANKS] for how in way.served}

    def _fit(self, adapted: Any, how: str, rank: int) -> float:
        with serving(adapted, how, rank), torch.no_grad():
            error = adapted(torch.eye(32)).T - self.matrix
        return 1 - float(error.square().sum() / self.matrix.square().sum())


def _inputs(rows: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, 32, generator=generator)


@dataclass(frozen=True)
class Language:
    """A model that knows one Markov language, and rows of another one.

    Attributes:
        module: the model.
        chain: transition probabilities of the new language, [32, 32].
        held_out: rows of it to judge on.
    """

    module: Any
    chain: torch.Tensor
    held_out: torch.Tensor

    @classmethod
    def drawn(cls, seed: int, steps: int = 300) -> Language:
        """Two languages, the second one the first with noise as large as itself; a model trained on the first."""
        generator = torch.Generator().manual_seed(seed)
        first, noise = (1.5 * torch.randn(32, 32, generator=generator) for _ in range(2))
        known, new = first.softmax(1), ((first + noise) / 2**0.5).softmax(1)
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=32, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, head_dim=12, max_position_embeddings=64,
        )  # fmt: skip
        module = transformers.LlamaForCausalLM(config)

        def loss(_: int) -> torch.Tensor:
            rows = sentences(known, 16, generator)
            return module(input_ids=rows, labels=rows, use_cache=False).loss

        minimise(module.parameters(), loss, Schedule(steps, 3e-3, warmup=20))
        return cls(module.requires_grad_(False), new, sentences(new, 64, torch.Generator().manual_seed(7000 + seed)))

    def learnt(self, way: Way, seed: int, steps: int = 60) -> Mapping[str, list[torch.Tensor]]:
        """Loss of every held-out row at each rank, by how it is served; Adam 1e-3, 16 rows a step."""

        def loss(adapted: Any, rows: torch.Tensor) -> torch.Tensor:
            return adapted(input_ids=rows, labels=rows, use_cache=False).loss

        schedule = Schedule(steps, 1e-3, decay="none")
        module = copy.deepcopy(self.module)
        adapted = trained(module, way, r".*_proj", partial(sentences, self.chain, 16), loss, schedule, seed)
        return {how: [self._losses(adapted, how, rank) for rank in RANKS] for how in way.served}

    def _losses(self, adapted: Any, how: str, rank: int) -> torch.Tensor:
        with serving(adapted, how, rank):
            return row_nll(adapted, self.held_out)


def sentences(chain: torch.Tensor, rows: int, generator: torch.Generator, length: int = 32) -> torch.Tensor:
    """Rows of a Markov chain, int64 [rows, length]; the first token is uniform."""
    tokens = [torch.randint(len(chain), (rows,), generator=generator)]
    for _ in range(length - 1):
        tokens.append(torch.multinomial(chain[tokens[-1]], 1, generator=generator)[:, 0])
    return torch.stack(tokens, 1)


def row_nll(module: Any, rows: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss of every row, nats, float64 [rows]."""
    with torch.inference_mode():
        logits = module(input_ids=rows, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    return losses.double().mean(1)
