"""GPart against LoRA, Uni-LoRA and full fine-tuning at equal numbers of trained parameters. `python -m claims.gpart`.

A Llama of two blocks (width 48, 32 tokens) learns a language in which the next token depends on the two before it, and
is adapted to a related one, in which both say half of what they said and half something else. Everything but the
adapter is frozen; all linears of the blocks are adapted, 46,080 weights. 200 updates of 8 rows of 64 tokens by AdamW
with a cosine, for every variant alike; each has its own learning rate, found on a language of its own (seed 9).

- GPart with 6,528 and 1,632 numbers: as many as LoRA of rank 4 and 1 have;
- Uni-LoRA (PEFT's) with 1,632 numbers spread over factors of rank 4;
- control: fastfood, a map of the same size that keeps lengths in the mean only;
- control: GPart without the root of the group's size, which should be a matter of the learning rate;
- another back end, signed_magnitude, which looks at the weights;
- bounds: the model as it is, and full fine-tuning of the same 46,080 weights.

A seed draws languages, start, batches and groups. The source's experiments are on models of 0.1 to 8 billion weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import peft
import torch
import transformers

from claims.experiment import Experiment, Statement
from featherweight.models.gpart_config import GPartConfig
from featherweight.train.loop import Schedule, minimise

CLAIM = "One vector spread isometrically over all weights adapts as well as LoRA of the same size (arXiv 2605.14841)."
SEEDS, TUNING_SEED = (0, 1, 2), 9
TOKENS, LENGTH, BATCH, STEPS, PRETRAINING, ROWS = 32, 64, 8, 200, 400, 64
WEIGHTS, FEW, MANY = 46_080, 1_632, 6_528
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FULL, BASE, NINE_TENTHS = "full fine-tuning", "not adapted", "nine tenths of full fine-tuning"


def gpart(dimension: int, **fields: Any) -> Callable[[int], peft.PeftConfig]:
    return lambda seed: GPartConfig(target_modules=TARGETS, dimension=dimension, seed=42 + seed, **fields)


def lora(rank: int) -> Callable[[int], peft.PeftConfig]:
    return lambda seed: peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)


def uni_lora(dimension: int) -> Callable[[int], peft.PeftConfig]:
    return lambda seed: peft.UniLoraConfig(r=4, theta_d_length=dimension, target_modules=TARGETS, proj_seed=42 + seed)


VARIANTS: dict[str, tuple[Callable[[int], peft.PeftConfig] | None, float]] = {
    FULL: (None, 3e-3),
    "LoRA r=4": (lora(4), 1e-2),
    "LoRA r=1": (lora(1), 1e-2),
    f"Uni-LoRA {FEW}": (uni_lora(FEW), 1e-2),
    f"GPart {MANY}": (gpart(MANY), 2e-2),
    f"GPart {FEW}": (gpart(FEW), 2e-2),
    f"fastfood {MANY}": (gpart(MANY, backend="fastfood"), 2e-2),
    f"not isometric {MANY}": (gpart(MANY, isometric=False), 8e-3),
    f"signed magnitude {MANY}": (gpart(MANY, backend="signed_magnitude"), 2e-2),
}
"""How each adapts, by seed, and the learning rate from which the search for its own starts."""


class Language:
    """Tokens whose distribution is a product of what the last and the one before say."""

    def __init__(self, last: torch.Tensor, before: torch.Tensor) -> None:
        self.probabilities = (last[None] + before[:, None]).softmax(-1)  # [before, last, next]

    def draw(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Tokens, int64 [rows, LENGTH]."""
        ids = torch.randint(TOKENS, (rows, LENGTH), generator=generator)
        for place in range(2, LENGTH):
            chosen = self.probabilities[ids[:, place - 2], ids[:, place - 1]]
            ids[:, place] = torch.multinomial(chosen, 1, generator=generator).squeeze(1)
        return ids


class World:
    """The languages of a seed, a model of the first, and data of the second."""

    def __init__(self, seed: int) -> None:
        self.seed, self.generator = seed, torch.Generator().manual_seed(seed)
        first, other = (torch.randn(2, TOKENS, TOKENS, generator=self.generator) * 1.5 for _ in range(2))
        self.second = Language(*((first + other) / 2**0.5))
        self.model = self._model()
        learned = self._batches(Language(*first), PRETRAINING)
        minimise(self.model.parameters(), self._loss(self.model, learned), Schedule(PRETRAINING, 5e-3, warmup=20))
        self.model.requires_grad_(False)
        self.training = self._batches(self.second, STEPS)
        self.evaluation = self.second.draw(ROWS, self.generator)

    def _model(self) -> Any:
        torch.manual_seed(self.seed)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=TOKENS, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=LENGTH, initializer_range=0.1,
        ))  # fmt: skip

    def _batches(self, language: Language, steps: int) -> torch.Tensor:
        return language.draw(steps * BATCH, self.generator).view(steps, BATCH, LENGTH)

    @staticmethod
    def _loss(module: Any, batches: torch.Tensor) -> Callable[[int], torch.Tensor]:
        return lambda step: module(input_ids=batches[step], labels=batches[step], use_cache=False).loss

    def adapted(self, name: str, rate: float) -> list[float]:
        """Loss of every evaluation row after training a variant at a learning rate."""
        module, config = copy.deepcopy(self.model), VARIANTS[name][0]
        torch.manual_seed(self.seed)
        if config is None:
            trained = [each for key, each in module.named_parameters() if "layers" in key and each.dim() == 2]
            assert sum(each.numel() for each in trained) == WEIGHTS
        else:
            module = peft.get_peft_model(module, config(self.seed))
            trained = [each for each in module.parameters() if each.requires_grad]
            assert sum(each.numel() for each in trained) in (FEW, MANY)
        minimise(trained, self._loss(module, self.training), Schedule(STEPS, rate))
        return self.losses(module)

    @torch.no_grad()
    def losses(self, module: Any) -> list[float]:
        logits = module.eval()(input_ids=self.evaluation).logits[:, 1:-1]
        found = torch.nn.functional.cross_entropy(logits.transpose(1, 2), self.evaluation[:, 2:], reduction="none")
        return found.double().mean(1).tolist()


@dataclass
class Vectors(Experiment):
    """Finds the learning rate of every variant, then measures it."""

    @cached_property
    def rates(self) -> dict[str, float]:
        world = World(TUNING_SEED)
        return {name: self._rate(world, name, start) for name, (_, start) in VARIANTS.items()}

    def _rate(self, world: World, name: str, start: float) -> float:
        """The best of a grid of factors of 2.5, walked until both neighbours are worse."""
        found: dict[float, float] = {}

        def loss(rate: float) -> float:
            if rate not in found:
                found[rate] = sum(world.adapted(name, rate))
            return found[rate]

        best = start
        while True:
            nearest = min((best / 2.5, best, best * 2.5), key=loss)
            if nearest == best:
                self._say(f"learning rate of {name}: {best:.2g}")
                return best
            best = nearest

    def seed(self, seed: int) -> None:
        world = World(seed)
        self.losses.setdefault(BASE, []).append(world.losses(world.model))
        for name in VARIANTS:
            self.losses.setdefault(name, []).append(world.adapted(name, self.rates[name]))
        bounds = zip(self.losses[BASE][-1], self.losses[FULL][-1], strict=True)
        self.losses.setdefault(NINE_TENTHS, []).append([0.1 * before + 0.9 * after for before, after in bounds])
        self._say(f"seed {seed}")

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self.started:5.0f} s  {what}", flush=True)

    def recovered(self) -> dict[str, float]:
        """The share of full fine-tuning's gain that each variant has, mean of the seeds."""
        mean = {name: torch.tensor(rows, dtype=torch.float64).mean().item() for name, rows in self.losses.items()}
        gain = mean[BASE] - mean[FULL]
        return {name: round((mean[BASE] - mean[name]) / gain, 3) for name in VARIANTS}


def facts_of(experiment: Vectors) -> Mapping[str, Any]:
    return {
        "model": f"a Llama of 2 blocks of width 48, {WEIGHTS} adapted weights",
        "calibration": f"{STEPS} updates of {BATCH} rows of {LENGTH} tokens of a toy language, seeds {list(SEEDS)}",
        "evaluation": f"{ROWS} held-out rows a seed",
        "trained_numbers": {"LoRA r=4": MANY, "LoRA r=1": FEW, FULL: WEIGHTS},
        "learning_rates": {name: float(f"{rate:.2g}") for name, rate in experiment.rates.items()},
        "recovered_share_of_full_fine_tuning": experiment.recovered(),
    }


def main() -> str:
    torch.set_num_threads(1)
    experiment = Vectors("gpart", CLAIM)
    for seed in SEEDS:
        experiment.seed(seed)
    many, few = f"GPart {MANY}", f"GPart {FEW}"
    statements = [
        Statement(many, "LoRA r=4", margin=0.03),
        Statement(few, "LoRA r=1", margin=0.03),
        Statement(few, f"Uni-LoRA {FEW}", margin=0.03),
        Statement(many, NINE_TENTHS),
        Statement(many, "LoRA r=4"),
        Statement(few, "LoRA r=1"),
        Statement(many, f"fastfood {MANY}"),
    ]
    return experiment.conclude(statements, facts_of(experiment))


if __name__ == "__main__":
    main()
