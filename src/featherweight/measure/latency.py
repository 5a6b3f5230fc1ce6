"""How long a model takes for a token, in the runtime that its format is for, on this machine, now.

GGUF files run in llama.cpp, Hugging Face folders in PyTorch (`generate`, greedy, with its KV cache). Nothing is
inferred from operations or bytes. The first run is thrown away: it pages the file in. Of the others the fastest counts:
whatever else the machine does can only add to it. Knows nothing of budgets.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featherweight.core.data import default_documents
from featherweight.core.errors import FormatError
from featherweight.core.lazy import torch, transformers
from featherweight.core.model import Model
from featherweight.measure.llama_runtime import DecodeTiming, serve
from featherweight.measure.torch_runtime import load_folder

Runtime = Literal["llama.cpp", "transformers"]


@dataclass(frozen=True)
class Latency:
    """Seconds a token.

    Attributes:
        runtime: what computed.
        threads: CPU threads it was given.
        token_seconds: per decoded token, in the fastest of the repeats.
        median, slowest: per decoded token, over the repeats.
        prompt_rate: prompt tokens a second, median of the repeats.
        tokens: decoded tokens in each repeat.
        repeats: timed runs.
    """

    runtime: Runtime
    threads: int
    token_seconds: float
    median: float
    slowest: float
    prompt_rate: float
    tokens: int
    repeats: int


def decode_latency(
    source: Path | Model,
    runtime: Runtime | None = None,
    threads: int = 2,
    tokens: int = 32,
    prompt: int = 64,
    repeats: int = 3,
) -> Latency:
    """Times a prompt and the tokens decoded one by one after it.

    Args:
        source: a .gguf file, a Hugging Face folder, or (for transformers only) a model in memory.
        runtime: None = the one that `source` is for.
        threads: CPU threads.
        tokens: tokens to decode in each repeat.
        prompt: tokens of the prompt.
        repeats: timed runs, after one that is not counted.

    Raises:
        FormatError: `source` is not for `runtime`.
    """
    own = runtime_of(source)
    if runtime not in (None, own):
        raise FormatError(str(source), f"is not for {runtime}", "export it for that runtime first")
    run = _llama_runs if own == "llama.cpp" else _torch_runs
    with run(source, threads, prompt, tokens) as decode:
        decode()
        timings = [decode() for _ in range(repeats)]
    seconds = [timing.seconds / timing.tokens for timing in timings]
    rates = [timing.prompt_tokens / timing.prompt_seconds for timing in timings]
    return Latency(
        runtime=own,
        threads=threads,
        token_seconds=min(seconds),
        median=statistics.median(seconds),
        slowest=max(seconds),
        prompt_rate=statistics.median(rates),
        tokens=tokens,
        repeats=repeats,
    )


def runtime_of(source: Path | Model) -> Runtime:
    """The runtime that a file, folder or model is for."""
    return "llama.cpp" if isinstance(source, Path) and source.suffix == ".gguf" else "transformers"


def _text() -> str:
    return "\n".join(default_documents()["prose"])


@contextmanager
def _llama_runs(source: Any, threads: int, prompt: int, tokens: int) -> Iterator[Callable[[], DecodeTiming]]:
    with serve(source, context=prompt + tokens + 8, threads=threads) as runtime:
        ids = runtime.tokenize(_text()[: 16 * prompt])[:prompt]
        yield lambda: runtime.decode(ids, tokens + 1)


@contextmanager
def _torch_runs(source: Any, threads: int, prompt: int, tokens: int) -> Iterator[Callable[[], DecodeTiming]]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if isinstance(source, Model):
            module, tokenizer = source.module(), source.tokenizer
        else:
            module, tokenizer = load_folder(source), transformers.AutoTokenizer.from_pretrained(str(source))
        ids = torch.tensor([tokenizer(_text()[: 16 * prompt], add_special_tokens=False)["input_ids"][:prompt]])
        yield lambda: _generate(module, ids, tokens)
    finally:
        torch.set_num_threads(before)


def _generate(module: Any, ids: torch.Tensor, tokens: int) -> DecodeTiming:
    """The time of one generated token is that of the prompt; the rest of a longer run is decoding."""
    first = _generate_seconds(module, ids, 1)
    whole = _generate_seconds(module, ids, tokens + 1)
    return DecodeTiming(ids.shape[1], first, tokens, max(whole - first, 1e-9))


def _generate_seconds(module: Any, ids: torch.Tensor, tokens: int) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    return time.perf_counter() - start
