"""A GGUF file served by llama.cpp inside this process: token ids, log-probabilities, decode timing.

The server of the xllamacpp wheel listens on a loopback port behind a random key; requests go there directly, past any
proxy. Knows nothing of models beyond their file. Cost: loading maps the file (0.3 s for 100 MB); a full vocabulary of
log-probabilities travels as JSON (0.5 s for 49,152 tokens).
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import CheckpointError, MissingExtra
from featherweight.core.lazy import torch
from featherweight.core.sampling import Draw

ERRORS_ONLY = 1  # llama.cpp's log levels: 1 errors, 2 warnings, 3 information
_LOG_DELAY = 0.05  # seconds: llama.cpp's log is written by a thread of its own


@dataclass(frozen=True)
class DecodeTiming:
    """What one request took, as llama.cpp's own clock has it.

    Attributes:
        prompt_tokens, prompt_seconds: the prompt, processed in batches.
        tokens, seconds: the tokens decoded one after the other.
    """

    prompt_tokens: int
    prompt_seconds: float
    tokens: int
    seconds: float


class LlamaRuntime:
    """A loaded model; made by `serve`."""

    def __init__(self, address: str, key: str, path: Path) -> None:
        self.path = path
        self._host = address.removeprefix("http://")
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._plain: int | None = None

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; special tokens written in it are recognised, and added around it only if asked for."""
        body = {"content": text, "add_special": special, "parse_special": True}
        return [int(token) for token in self._post("/tokenize", body)["tokens"]]

    def likeliest(self, ids: Sequence[int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens after `ids`, int64 [count], and their log-probabilities, float32 [count]."""
        body = {
            "prompt": list(ids), "n_predict": 1, "n_probs": count, "post_sampling_probs": False,
            "temperature": 0.0, "cache_prompt": False, "logit_bias": [[self._plain_token(), 1000.0]],
        }  # fmt: skip
        listed = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        tokens = torch.tensor([entry["id"] for entry in listed])
        return tokens, torch.tensor([entry["logprob"] for entry in listed])

    def log_probabilities(self, ids: Sequence[int], vocabulary: int) -> torch.Tensor:
        """Log-probabilities of every token after `ids`, float32 [vocabulary]."""
        tokens, values = self.likeliest(ids, vocabulary)
        return torch.full((vocabulary,), -torch.inf).index_copy(0, tokens, values).log_softmax(0)

    def decode(self, ids: Sequence[int], tokens: int) -> DecodeTiming:
        """Times the prompt `ids` and `tokens` greedy tokens after it; an end-of-text token does not stop it."""
        timings = self._complete(ids, tokens, ignore_eos=True)["timings"]
        # The first token comes out of the prompt's last batch, and llama.cpp's clock starts behind it.
        return DecodeTiming(
            int(timings["prompt_n"]),
            float(timings["prompt_ms"]) / 1e3,
            int(timings["predicted_n"]) - 1,
            float(timings["predicted_ms"]) / 1e3,
        )

    def generate(self, ids: Sequence[int], tokens: int) -> str:
        """The greedy continuation of a prompt, up to `tokens` tokens."""
        return str(self._complete(ids, tokens)["content"])

    def chat(self, messages: Sequence[Mapping[str, str]], tokens: int, draw: Draw, seed: int) -> dict[str, Any]:
        """The answer to a conversation in the file's own chat template: "text", "ended" and "tokens"."""
        body = {"messages": list(messages), "max_tokens": tokens, "reasoning_format": "none", **_drawn(draw, seed)}
        reply = self._post("/v1/chat/completions", body)
        choice = reply["choices"][0]
        text, count = choice["message"].get("content") or "", int(reply["usage"]["completion_tokens"])
        return {"text": str(text), "ended": choice["finish_reason"] == "stop", "tokens": count}

    def go_on(self, text: str, tokens: int, draw: Draw, seed: int) -> dict[str, Any]:
        """The continuation of a plain text: "text", "ended" and "tokens"."""
        body = {"prompt": self.tokenize(text, special=True), "n_predict": tokens, **_drawn(draw, seed)}
        reply = self._post("/completion", body)
        count = int(reply["tokens_predicted"])
        return {"text": str(reply["content"]), "ended": reply["stop_type"] == "eos", "tokens": count}

    def _complete(self, ids: Sequence[int], tokens: int, ignore_eos: bool = False) -> Any:
        body = {"prompt": list(ids), "n_predict": tokens, "temperature": 0.0, "cache_prompt": False}
        return self._post("/completion", {**body, "ignore_eos": ignore_eos})

    def _plain_token(self) -> int:
        """A token that is a whole character.

        The server reports no probabilities with a token that ends inside a character. So one is forced that does
        not; the probabilities reported are those before any bias.
        """
        if self._plain is None:
            self._plain = self.tokenize("a")[-1]
        return self._plain

    def wait_until_ready(self) -> None:
        """Returns when the server answers from its task loop; one that is closed before that waits for ever."""
        self._request("GET", "/slots", None)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._request("POST", path, json.dumps(body))

    def _request(self, method: str, path: str, body: str | None) -> Any:
        connection = http.client.HTTPConnection(self._host)
        try:
            connection.request(method, path, body, self._headers)
            reply = connection.getresponse()
            content = json.loads(reply.read())
        finally:
            connection.close()
        if reply.status != 200:
            reason = content.get("error", {}).get("message", f"status {reply.status}")
            raise CheckpointError(str(self.path), f"was refused by llama.cpp ({reason})", "see the message")
        return content


def _drawn(draw: Draw, seed: int) -> dict[str, Any]:
    """How a token is drawn, with llama.cpp's other samplers out of the way."""
    return {
        "temperature": draw.temperature, "top_p": draw.top_p, "seed": seed, "top_k": 0, "min_p": 0.0,
        "cache_prompt": False,
    }  # fmt: skip


@contextmanager
def serve(path: Path, context: int = 512, threads: int = 2, adapters: Sequence[Path] = ()) -> Iterator[LlamaRuntime]:
    """Loads a GGUF file and serves it until the block ends.

    Args:
        path: the file.
        context: tokens of context to make room for.
        threads: for the prompt and for decoding.
        adapters: GGUF files of LoRA adapters, all of them active.

    Raises:
        CheckpointError: llama.cpp cannot load the file; its own reason is in the message.
        MissingExtra: xllamacpp is not installed.
    """
    try:
        import xllamacpp
    except ImportError:
        raise MissingExtra("running GGUF files", "xllamacpp") from None
    key = secrets.token_hex(16)
    with _captured_errors() as log:
        try:
            server = xllamacpp.Server(_parameters(xllamacpp, path, context, threads, key, adapters))
        except RuntimeError as error:
            time.sleep(_LOG_DELAY)
            reason = load_error(log()) or str(error)
            raise CheckpointError(str(path), f"cannot be loaded by llama.cpp ({reason})", "export it again") from None
    try:
        runtime = LlamaRuntime(server.listening_address, key, path)
        runtime.wait_until_ready()
        yield runtime
    finally:
        del server


def _parameters(xllamacpp: Any, path: Path, context: int, threads: int, key: str, adapters: Sequence[Path]) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = context
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.n_parallel = 1
    parameters.fit_params = False
    parameters.warmup = False
    parameters.cache_ram_mib = 0
    parameters.ui = False
    parameters.api_keys = [key]
    parameters.verbosity = ERRORS_ONLY
    if adapters:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(each), 1.0) for each in adapters]
    return parameters


def load_error(log: str) -> str:
    """The reason in llama.cpp's log of a failed load, without time stamps."""
    marks = ("error loading model: ", "error loading model hyperparameters: ", "error loading model vocabulary: ")
    reasons = [line.split(mark, 1)[1] for line in log.splitlines() for mark in marks if mark in line]
    return reasons[-1].strip() if reasons else ""


@contextmanager
def _captured_errors() -> Iterator[Any]:
    """Catches what native code writes to standard error, and passes it on unless the block raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def written() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield written
            os.write(kept, written().encode())
        finally:
            os.dup2(kept, 2)
            os.close(kept)
