"""LoRA training on one GPU by us and by PEFT with transformers' Trainer: peak GPU memory, time a step, losses.

    python benchmarks/gpu_training.py

A random Llama of 0.36 billion weights in bf16, rank 16 on all linears, four rows of 1024 tokens a step of which 30 %
are trained on. Four ways, each in a process of its own and in turns: PEFT, PEFT with gradient checkpointing, ours, and
ours under a limit of a third of what PEFT takes. Memory is what torch allocated at its most. All start from the same
model; values of random weights do not matter to any of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from bench import save
from rich.console import Console
from rich.table import Table

from featherweight.core.budget import format_bytes
from featherweight.core.data import TokenSet
from featherweight.core.examples import Example
from featherweight.core.packing import PackedRows
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_tokenizer

ROWS, LENGTH, TRAINED, STEPS, RANK = 4, 1024, 0.3, 10, 16
SHAPE = {
    "vocab_size": 49152, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
PEFT, CHECKPOINTED, OURS, THIRD = "peft", "peft-checkpointed", "featherweight", "featherweight at a third"
SHARE = {THIRD: 1 / 3}


def make_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def tokens() -> torch.Tensor:
    return torch.randint(3, SHAPE["vocab_size"], (ROWS * STEPS, LENGTH), generator=torch.Generator().manual_seed(0))


def by_peft(folder: Path, checkpointing: bool) -> tuple[list[float], list[float], dict[str, Any]]:
    """Losses, clock at the start of every step and at the end, and nothing more to say."""
    import peft

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    starts: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            starts.append(time.perf_counter())

        on_train_end = on_step_begin

    ids = tokens()
    labels = ids.clone()
    labels[:, : -round(TRAINED * LENGTH)] = -100
    rows = [{"input_ids": one, "labels": other} for one, other in zip(ids.tolist(), labels.tolist(), strict=True)]
    with tempfile.TemporaryDirectory() as out:
        settings = transformers.TrainingArguments(
            out, per_device_train_batch_size=ROWS, max_steps=STEPS, learning_rate=2e-4, lr_scheduler_type="cosine",
            logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, bf16=True,
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        trainer = transformers.Trainer(model, settings, train_dataset=rows, callbacks=[Clock()])
        trainer.train()
    return [each["loss"] for each in trainer.state.log_history if "loss" in each], starts, {}


def by_us(folder: Path, limit: int | None) -> tuple[list[float], list[float], dict[str, Any]]:
    from featherweight.techniques.adapt.lora import Lora
    from featherweight.train.fitted import fitted, shape_of
    from featherweight.train.memory import plan_memory
    from featherweight.train.next_token import next_token_loss
    from featherweight.train.trainer import Hooks

    method = Lora(rank=RANK, steps=STEPS, learning_rate=2e-4, warmup=0, batch=ROWS, length=LENGTH)
    model, run, rows = open_folder(folder), Run(seed=0, device="cuda"), rows_of(tokens())
    plan = plan_memory(
        model, method, shape_of(method, rows), limit, (), "cuda", method.compute_dtype("cuda")
    )  # fmt: skip
    starts: list[float] = []

    def loss(module: Any, batch: Any) -> tuple[torch.Tensor, int]:
        torch.cuda.synchronize()
        starts.append(time.perf_counter())
        return next_token_loss(module, batch)

    with fitted(method, model, run, plan if limit else None) as adapted:
        torch.cuda.reset_peak_memory_stats()
        course = method.train(adapted, rows, run, Hooks(loss_of=loss))
        torch.cuda.synchronize()
        starts.append(time.perf_counter())
    return course.losses, starts, {"planned": plan.total, "levers": plan.levers.words()}


def rows_of(ids: torch.Tensor) -> PackedRows:
    trained = torch.zeros(LENGTH, dtype=torch.bool)
    trained[-round(TRAINED * LENGTH) :] = True
    tokens_of = TokenSet(ids, ("random",) * len(ids), tuple(range(len(ids))))
    rows = PackedRows.of_tokens(tokens_of)
    examples = [Example(each.ids, trained.numpy(), each.where) for each in rows.examples]
    return PackedRows(examples, LENGTH, share=False)


def once(way: str, folder: Path, limit: int | None) -> dict[str, Any]:
    """One way, in this process."""
    if way in (PEFT, CHECKPOINTED):
        losses, starts, more = by_peft(folder, way == CHECKPOINTED)
    else:
        losses, starts, more = by_us(folder, limit)
    seconds = [after - before for before, after in itertools.pairwise(starts)]
    return {
        "seconds": statistics.median(seconds[2:]), "peak_bytes": torch.cuda.max_memory_allocated(),
        "losses": losses, "limit": limit, **more,
    }  # fmt: skip


def in_a_process(way: str, folder: Path, limit: int | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--limit", str(limit or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--way")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(once(given.way, given.folder, given.limit or None)))
        return 0
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU")
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in (PEFT, CHECKPOINTED, OURS, THIRD)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        make_model(folder)
        for _, way in itertools.product(range(given.rounds), runs):
            limit = round(SHARE[way] * runs[PEFT][0]["peak_bytes"]) if way in SHARE else None
            runs[way].append(found := in_a_process(way, folder, limit))
            print(f"{way}: {found['seconds'] * 1e3:.1f} ms a step, {format_bytes(found['peak_bytes'])}", flush=True)
            if way == THIRD:  # a round is complete
                keep(runs)
    show(runs)
    return 0


def keep(runs: dict[str, list[dict[str, Any]]]) -> None:
    facts = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "ratios": ratios(runs), "runs": runs}
    save("gpu_training", "python benchmarks/gpu_training.py", facts)


def ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Every way against PEFT: most memory, and median of the time ratios of the rounds."""
    return {
        way: {
            "memory": max(each["peak_bytes"] for each in found) / max(each["peak_bytes"] for each in runs[PEFT]),
            "time": statistics.median(a["seconds"] / b["seconds"] for a, b in zip(found, runs[PEFT], strict=True)),
        }
        for way, found in runs.items()
    }


def show(runs: dict[str, list[dict[str, Any]]]) -> None:
    table = Table(box=None)
    for title in ("by", "peak memory", "milliseconds a step", "last loss", "done"):
        table.add_column(title, justify="right")
    for way, found in runs.items():
        table.add_row(
            way, format_bytes(max(each["peak_bytes"] for each in found)),
            f"{1e3 * min(each['seconds'] for each in found):.1f}", f"{found[0]['losses'][-1]:.4f}",
            found[0].get("levers", ""),
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
