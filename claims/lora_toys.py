"""What the claims on adapters share: a toy that has read prose and is adapted to code, LoRA training, row losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import peft
import torch

from claims.experiment import row_losses
from claims.toys import BATCH, LENGTH, toy
from featherweight.core.adapter_folder import Adapter, read_adapter
from featherweight.core.adapter_merge import merged
from featherweight.core.attach import attach
from featherweight.core.data import default_documents, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.train.loop import Schedule, minimise, shuffled

TRAINED, CHOSEN, JUDGED = 400, 16, 24


@dataclass
class Language:
    """A small model of prose, and code to adapt it to, in three parts: to train on, to choose on, to judge on."""

    folder: Path
    seed: int
    hidden: int = 64
    blocks: int = 3
    steps: int = 300

    @cached_property
    def model(self) -> Model:
        prose = {"prose": default_documents()["prose"]}
        return toy(self.folder, prose, self.hidden, self.steps, self.seed, self.blocks)

    @cached_property
    def rows(self) -> dict[str, torch.Tensor]:
        """Tokens of code by part, int64 [rows, length]."""
        parts = split_documents({"code": default_documents()["code"]})
        sizes = {"calibration": TRAINED, "selection": CHOSEN, "held-out": JUDGED}
        return {name: tokenize(parts[name], self.model.tokenizer, rows, LENGTH).ids for name, rows in sizes.items()}

    def losses(self, adapter: Adapter | None, part: str = "held-out") -> list[float]:
        """Mean loss of each row with an adapter, or without one."""
        model = self.model if adapter is None else merged(adapter, self.model)
        return row_losses(model, self.rows[part]).tolist()

    def trained(self, targets: Sequence[str] | str, rank: int, rate: float, steps: int, purpose: str) -> Adapter:
        """A LoRA adapter, alpha = rank, trained on the code."""
        config = peft.LoraConfig(
            r=rank, lora_alpha=rank, target_modules=targets if isinstance(targets, str) else list(targets)
        )
        adapted = attach(self.model.module(), config, Run(seed=self.seed).generator(f"{purpose}/init"))
        ids = self.rows["calibration"]
        chosen = shuffled(len(ids), BATCH, Run(seed=self.seed).generator("order"))

        def loss(step: int) -> torch.Tensor:
            batch = ids[list(chosen(step))]
            logits = adapted(input_ids=batch, use_cache=False).logits[:, :-1]
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        parameters = [each for each in adapted.parameters() if each.requires_grad]
        minimise(parameters, loss, Schedule(steps, rate, warmup=max(1, steps // 20)))
        with TemporaryDirectory() as folder:
            adapted.save_pretrained(folder)
            return read_adapter(Path(folder))
