"""Checks a written export by loading it in the runtime that it is for: part of every export, not only of the tests.

GGUF: llama.cpp loads the file, splits a varied set of texts into the same tokens, and predicts nearly the same next
tokens. "Nearly" because it multiplies rounded matrices with activations rounded to 8 bits. Mean KL divergence to our
float32 computation, measured on SmolLM2-135M with every block type: float files 6e-5 ... 2e-4, Q3_K ... Q8_0 0.007 ...
0.016, Q2_K (a broken model) 0.036. Mistakes in a Q4_0 file: two blocks swapped 0.27, rows of one key matrix unpermuted
0.26, gate and up of one block swapped 0.86, norms reversed 9. So the bound is 0.01 for float files and 0.1 for others.
A mistake as small as a doubled rotary base (0.02) would pass: the tests of the exporter look for those in float files.

Hugging Face: plain transformers loads the folder and computes the same logits to 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featherweight.core.data import default_documents
from featherweight.core.errors import OutputError
from featherweight.core.formats import FLOATS
from featherweight.core.lazy import torch, transformers
from featherweight.core.model import Model
from featherweight.core.stream import head_weight, stream
from featherweight.export.gguf_header import context_length
from featherweight.export.pre_tokenizer import first_difference, texts_for
from featherweight.measure.llama_runtime import LlamaRuntime, serve
from featherweight.measure.torch_runtime import load_folder

DIVERGENCE, DIVERGENCE_OF_FLOATS = 0.1, 0.01
LOGITS = 1e-3
_ROWS, _LENGTH, _POINTS = 2, 96, 3
_LISTED = 2048  # likeliest tokens that are compared one by one; a whole vocabulary is megabytes of JSON a prediction


@dataclass(frozen=True)
class Reload:
    """What a reloaded export was found to do.

    Attributes:
        path: the file or folder.
        texts: texts whose token ids were compared, all equal.
        predictions: positions at which the prediction of the next token was compared.
        difference: GGUF: mean KL divergence, in nats; Hugging Face: largest difference of a logit.
    """

    path: Path
    texts: int
    predictions: int
    difference: float


def check_reload(model: Model, path: Path) -> Reload:
    """Reloads a written export and compares it with the model that was exported.

    Args:
        model: the model as stored (`as_stored` of the exporter).
        path: a .gguf file or a Hugging Face folder.

    Raises:
        OutputError: it computes something else.
        CheckpointError: it cannot be loaded.
    """
    return _check_gguf(model, path) if path.suffix == ".gguf" else _check_folder(model, path)


def prompts(model: Model) -> torch.Tensor:
    """A few rows of prose and code in the model's tokens, int64 [rows, tokens]."""
    length = min(_LENGTH, context_length(model) // 2)
    texts = ["\n".join(documents[:8]) for documents in default_documents().values()][:_ROWS]
    rows = [list(model.tokenizer(text[: 16 * length], add_special_tokens=False)["input_ids"]) for text in texts]
    first = [token for token in [model.tokenizer.bos_token_id] if token is not None]
    return torch.tensor([(first + row)[:length] for row in rows if len(row) >= length])


def _check_gguf(model: Model, path: Path) -> Reload:
    tokens = prompts(model)
    ends = [tokens.shape[1] * (point + 1) // _POINTS for point in range(_POINTS)]
    expected = predictions(model, tokens, ends)
    with serve(path, context=tokens.shape[1] + 8) as runtime:
        difference = first_difference(runtime, model.tokenizer)
        if difference is not None:
            raise _differs(path, f"llama.cpp splits {difference[:60]!r} into other tokens than the model's tokenizer")
        found = divergences(runtime, tokens, ends, expected)
    mean = sum(found) / len(found)
    rounded = any(entry.format not in FLOATS for entry in model.entries.values())
    allowed = DIVERGENCE if rounded else DIVERGENCE_OF_FLOATS
    if not mean <= allowed:
        raise _differs(path, f"llama.cpp's predictions are {mean:.3g} nats from the model's, {allowed} allowed")
    return Reload(path, len(texts_for(model.tokenizer)), len(found), max(mean, 0.0))


def predictions(model: Model, tokens: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """Log-probabilities of the token after each prefix, float32 [rows, ends, vocabulary]."""
    hidden = stream(model, tokens)[:, [end - 1 for end in ends]]
    return (hidden @ head_weight(model).T).log_softmax(-1)


def divergences(runtime: LlamaRuntime, tokens: torch.Tensor, ends: list[int], expected: torch.Tensor) -> list[float]:
    """KL divergence of llama.cpp's predictions from the expected ones, after each prefix."""
    result = []
    for row, predictions in zip(tokens.tolist(), expected, strict=True):
        for end, prediction in zip(ends, predictions, strict=True):
            likeliest, found = runtime.likeliest(row[:end], min(_LISTED, prediction.numel()))
            result.append(float(_divergence(prediction[likeliest].double().exp(), found.double().exp())))
    return result


def _divergence(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """KL divergence where all tokens that are not listed count as one."""
    listed = [torch.cat([each, 1 - each.sum()[None]]).clamp(min=1e-12) for each in (expected, found)]
    left, right = (each / each.sum() for each in listed)
    return (left * (left / right).log()).sum()


def _check_folder(model: Model, path: Path) -> Reload:
    tokens = prompts(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    texts = texts_for(model.tokenizer)
    for text in texts:
        if tokenizer(text)["input_ids"] != model.tokenizer(text)["input_ids"]:
            raise _differs(path, f"its tokenizer splits {text[:60]!r} into other tokens than the model's")
    module = torch.nn.Module.float(load_folder(path))  # what is stored is compared, not how bf16 computes
    with torch.inference_mode():
        found = module(tokens).logits
    del module
    expected = stream(model, tokens) @ head_weight(model).T
    difference = float((found - expected).abs().max())
    if not difference <= LOGITS:
        raise _differs(path, f"transformers computes logits that differ by up to {difference:.3g}, {LOGITS} allowed")
    return Reload(path, len(texts), tokens.numel(), difference)


def _differs(path: Path, why: str) -> OutputError:
    return OutputError(str(path), why, "report this: the export was not kept")
