"""A LoRA adapter in llama.cpp: loaded beside its base it computes what the merged model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.adapter_folder import LoraFactors, read_adapter
from featherweight.core.adapter_merge import merged
from featherweight.core.errors import AdapterError, OutputError
from featherweight.core.gguf_metadata import read_gguf
from featherweight.core.source import open_folder
from featherweight.export.gguf import write_gguf
from featherweight.export.gguf_adapter import check_gguf_adapter, write_gguf_adapter
from featherweight.measure.llama_runtime import serve
from featherweight.testing.tiny import tiny_model
from lora_folders import LINEARS, adapted, logits, lora_folder

PROMPT = [1, 70, 80, 90, 100, 110, 75, 85]


def ragged(folder: Path) -> Any:
    """Ranks 1 to 4 and scales that differ by module."""
    adapter = read_adapter(folder)
    return adapter.with_factors({
        name: LoraFactors(each.a[: 1 + index % 4], each.b[:, : 1 + index % 4], each.scale * (1 + index % 3))
        for index, (name, each) in enumerate(adapter.factors.items())
    })  # fmt: skip


def predicted(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.tensor([PROMPT])).logits[0, -1].log_softmax(0)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("shape", ["uniform", "ragged"])
def test_llama_cpp_computes_the_merged_model(tmp_path: Path, models_folder: Path, kind: str, shape: str) -> None:
    """Log-probabilities of every token, against the merged model's and against the base's as a control."""
    base = tiny_model(models_folder, kind)
    folder = lora_folder(tmp_path / "adapter", base)
    adapter = read_adapter(folder) if shape == "uniform" else ragged(folder)
    model = open_folder(base)
    write_gguf(model, tmp_path / "base.gguf", matrices="F32")
    write_gguf_adapter(adapter, model, tmp_path / "adapter.gguf", "F32")
    expected = predicted(merged(adapter, model).module())
    with serve(tmp_path / "base.gguf", adapters=[tmp_path / "adapter.gguf"]) as runtime:
        found = runtime.log_probabilities(PROMPT, len(expected))
    assert (found - expected).abs().max() < 0.02
    assert (predicted(model.module()) - expected).abs().max() > 0.5


class TestFile:
    def test_uniform_factors_are_as_they_were(self, tiny: Path, tmp_path: Path) -> None:
        adapter = read_adapter(lora_folder(tmp_path / "adapter", tiny, lora_alpha=8))
        write_gguf_adapter(adapter, open_folder(tiny), tmp_path / "adapter.gguf", "F32")
        file = read_gguf(tmp_path / "adapter.gguf")
        assert file.get("general.type") == "adapter"
        assert file.get("general.architecture") == "llama"
        assert file.get("adapter.type") == "lora"
        assert file.get("adapter.lora.alpha") == 8
        assert len(file.tensors) == 2 * 2 * len(LINEARS)
        for side, factor in (("a", "a"), ("b", "b")):
            data = torch.from_numpy(file.data(f"blk.1.ffn_down.weight.lora_{side}").copy()).view(torch.float32)
            expected = getattr(adapter.factors["model.layers.1.mlp.down_proj"], factor)
            assert torch.equal(data.reshape(expected.shape), expected)

    def test_half_is_the_default(self, tiny: Path, tmp_path: Path) -> None:
        adapter = read_adapter(lora_folder(tmp_path / "adapter", tiny))
        write_gguf_adapter(adapter, open_folder(tiny), tmp_path / "adapter.gguf")
        assert {info.type for info in read_gguf(tmp_path / "adapter.gguf").tensors.values()} == {"F16"}


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestCheck:
    def test_finds_little_between_file_and_merged_model(self, tiny: Path, tmp_path: Path) -> None:
        adapter = read_adapter(lora_folder(tmp_path / "adapter", tiny, target_modules=[*LINEARS, "embed_tokens"]))
        write_gguf_adapter(adapter, open_folder(tiny), tmp_path / "adapter.gguf")
        found = check_gguf_adapter(adapter, open_folder(tiny), tmp_path / "adapter.gguf")
        assert found.difference < 0.01 < 0.1 < found.effect

    def test_finds_unpermuted_rows(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        adapter = read_adapter(lora_folder(tmp_path / "adapter", tiny, size=0.3))
        monkeypatch.setattr("featherweight.export.gguf_adapter.rotary_rows", lambda *_: None)
        write_gguf_adapter(adapter, open_folder(tiny), tmp_path / "adapter.gguf")
        monkeypatch.undo()
        with pytest.raises(OutputError, match="nats from the merged model"):
            check_gguf_adapter(adapter, open_folder(tiny), tmp_path / "adapter.gguf")


class TestRefused:
    def refused(self, adapter: Any, base: Path, tmp_path: Path, why: str) -> None:
        with pytest.raises(AdapterError, match=why):
            write_gguf_adapter(adapter, open_folder(base), tmp_path / "out.gguf")
        assert not (tmp_path / "out.gguf").exists()

    def test_module_that_was_trained_whole(self, tiny: Path, tmp_path: Path) -> None:
        folder = lora_folder(tmp_path / "adapter", tiny, target_modules=["q_proj"], modules_to_save=["lm_head"])
        self.refused(read_adapter(folder), tiny, tmp_path, "trained whole")

    def test_tied_head(self, tmp_path: Path, models_folder: Path) -> None:
        base = tiny_model(models_folder, tie_word_embeddings=True)
        adapter = read_adapter(lora_folder(tmp_path / "adapter", base, target_modules=["lm_head"]))
        self.refused(adapter, base, tmp_path, "shares with its embedding")

    def test_values_beyond_half(self, tiny: Path, tmp_path: Path) -> None:
        adapter = read_adapter(lora_folder(tmp_path / "adapter", tiny, target_modules=["q_proj"]))
        large = {name: each._replace(b=each.b * 1e7) for name, each in adapter.factors.items()}
        self.refused(adapter.with_factors(large), tiny, tmp_path, "F16 does not reach; use --type F32")

    def test_conditional_adapter(self, tiny: Path, tmp_path: Path) -> None:
        folder = lora_folder(tmp_path / "adapter", tiny, target_modules=["q_proj"], alora_invocation_tokens=[5, 6])
        self.refused(read_adapter(folder), tiny, tmp_path, "alora_invocation_tokens")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("targets", [LINEARS, ["down_proj", "embed_tokens"]])
def test_merged_model_computes_what_peft_computes(tiny: Path, tmp_path: Path, targets: list[str]) -> None:
    folder = lora_folder(tmp_path / "adapter", tiny, target_modules=targets)
    model = merged(read_adapter(folder), open_folder(tiny))
    ids = torch.arange(3, 35).reshape(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.module()(ids).logits, logits(tiny, folder), rtol=0, atol=1e-4)
        assert (adapted(tiny, target_modules=targets)(ids).logits - logits(tiny)).abs().max() > 0.1
