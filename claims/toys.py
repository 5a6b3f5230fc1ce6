"""Toy language models for claims: small Llamas with the tokenizer of the tests, trained in seconds on some text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers

from featherweight.core.model import Model, copy_companions
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model
from featherweight.train.loop import Schedule, minimise, shuffled

LENGTH, BATCH = 64, 8


def toy(
    folder: Path, documents: Mapping[str, Sequence[str]], hidden: int, steps: int, seed: int = 0, blocks: int = 3
) -> Model:
    """A base model (no chat template) of some width, trained on some documents.

    Args:
        folder: where it is written.
        documents: what it reads.
        hidden: its width; feed-forward layers are four times as wide.
        steps: of 8 rows of 64 tokens.
        seed: of its weights and of the order of rows; with the width it names the folder.
        blocks: its depth.
    """
    source = tiny_model(
        folder, seed=seed, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=blocks
    )  # fmt: skip
    module = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    generator = Run(seed=seed).generator("toy")
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.7 * parameter.shape[1] ** -0.5, generator=generator)
    text = "\n".join(each for texts in documents.values() for each in texts)
    every = torch.tensor(open_folder(source).tokenizer(text)["input_ids"])
    ids = every[: len(every) // LENGTH * LENGTH].reshape(-1, LENGTH)
    rows = shuffled(len(ids), BATCH, generator)

    def loss(step: int) -> torch.Tensor:
        batch = ids[list(rows(step))]
        return module(input_ids=batch, labels=batch).loss

    losses = minimise(module.parameters(), loss, Schedule(steps, 4e-3, warmup=20))
    print(f"toy of width {hidden}: loss {losses[0]:.2f} -> {sum(losses[-20:]) / 20:.2f} on {len(ids)} rows", flush=True)
    target = folder / f"toy-{hidden}-{seed}"
    module.save_pretrained(target)
    copy_companions(source, target)
    (target / "chat_template.jinja").unlink(missing_ok=True)
    return open_folder(target)
