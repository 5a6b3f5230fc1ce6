"""A Hugging Face configuration from the metadata of a GGUF file, for the architectures that featherweight knows.

transformers has a converter of its own, but it leaves out what the six architectures need to compute the same function
again: head sizes that do not follow from the width, Gemma's attention pattern and scale, rotary scaling.
"""

from __future__ import annotations

import math
from typing import Any

from featherweight.core.architecture import require_known
from featherweight.core.errors import CheckpointError
from featherweight.core.gguf_metadata import GgufFile
from featherweight.core.lazy import np

_TYPES = {"gemma3": "gemma3_text"}
_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def model_type(file: GgufFile) -> str:
    """The `model_type` of a file's architecture.

    Raises:
        UnsupportedArchitecture: llama.cpp may know it, featherweight does not.
    """
    kind = str(file.get("general.architecture"))
    kind = _TYPES.get(kind, kind)
    require_known(kind, str(file.path))
    return kind


def config_of(file: GgufFile) -> dict[str, Any]:
    """`config.json` of the model in a file."""
    kind, keys = model_type(file), _Keys(file)
    heads, hidden = int(keys["attention.head_count"]), int(keys["embedding_length"])
    config = {
        "architectures": [require_known(kind, str(file.path))["class"]],
        "model_type": kind,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": keys["feed_forward_length"],
        "num_hidden_layers": keys["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": keys.get("attention.head_count_kv", heads),
        "head_dim": keys.get("attention.key_length", hidden // heads),
        "max_position_embeddings": keys["context_length"],
        "rms_norm_eps": keys.decimal("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **{name: file.get(f"tokenizer.ggml.{short}_token_id") for name, short in _IDS.items()},
    }
    config["rope_parameters"] = _rope(file, keys, config)
    return {**config, **_particulars(file, keys, config)}


class _Keys:
    """The metadata fields of a file's architecture."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.prefix = file, str(file.get("general.architecture"))

    def get(self, name: str, default: Any = None) -> Any:
        return self.file.get(f"{self.prefix}.{name}", default)

    def __getitem__(self, name: str) -> Any:
        value = self.get(name)
        if value is None or isinstance(value, list):
            why = "is missing" if value is None else "differs between blocks, which is not supported"
            raise CheckpointError(str(self.file.path), f"{self.prefix}.{name} {why}", "use another file of this model")
        return value

    def decimal(self, name: str, default: float | None = None) -> float:
        """A float32 as the decimal number that it was rounded from."""
        value = self.get(name, default)
        return float(f"{self[name] if value is None else value:.7g}")


def _rope(file: GgufFile, keys: _Keys, config: dict[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": keys.decimal("rope.freq_base", 10000.0)}
    scaling = keys.get("rope.scaling.type")
    if scaling in ("linear", "yarn"):
        rope |= {"rope_type": scaling, "factor": keys.decimal("rope.scaling.factor")}
    if scaling == "yarn":
        rope["original_max_position_embeddings"] = keys["rope.scaling.original_context_length"]
        own = 1 + 0.1 * math.log(rope["factor"])
        rope["attention_factor"] = own * float(keys.get("rope.scaling.attn_factor", 1.0))
    if "rope_freqs.weight" in file.tensors:
        rope |= _llama3(file, config["head_dim"], rope["rope_theta"])
    if keys.prefix == "phi3":
        rope |= _phi3(file, keys, config["head_dim"])
    if keys.prefix == "gemma3":
        sliding = {"rope_type": "default", "rope_theta": keys.decimal("rope.freq_base_swa", 10000.0)}
        return {"full_attention": rope, "sliding_attention": sliding}
    return rope


def _llama3(file: GgufFile, head_dim: int, theta: float) -> dict[str, Any]:
    """The scaling of Llama 3.1 and later, whose factors the file holds as a tensor."""
    factors = file.data("rope_freqs.weight").view(np.float32)
    scaling = {
        "rope_type": "llama3", "factor": float(factors.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = ((8192 / wavelengths - 1.0) / 3.0).clip(0, 1)
    if not np.allclose(factors, 1 / ((1 - smooth) / scaling["factor"] + smooth), rtol=1e-4):
        raise CheckpointError(str(file.path), "holds rotary factors of an unknown kind", "give the Hugging Face folder")
    return scaling


def _phi3(file: GgufFile, keys: _Keys, head_dim: int) -> dict[str, Any]:
    rope: dict[str, Any] = {"partial_rotary_factor": keys.get("rope.dimension_count", head_dim) / head_dim}
    if "rope_factors_long.weight" in file.tensors:
        rope["rope_type"] = "longrope"
        rope["long_factor"] = file.data("rope_factors_long.weight").view(np.float32).tolist()
        rope["short_factor"] = file.data("rope_factors_short.weight").view(np.float32).tolist()
        rope["attention_factor"] = keys.get("rope.scaling.attn_factor")
    return rope


def _particulars(file: GgufFile, keys: _Keys, config: dict[str, Any]) -> dict[str, Any]:
    """What only one architecture has."""
    if keys.prefix == "gemma3":
        return _gemma(keys, config)
    if keys.prefix == "phi3":
        original = keys.get("rope.scaling.original_context_length", config["max_position_embeddings"])
        window = keys.get("attention.sliding_window") or None
        return {"original_max_position_embeddings": original, "sliding_window": window}
    if keys.prefix == "llama":
        biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
        return {name: tensor in file.tensors for name, tensor in biases.items()}
    return {}


def _gemma(keys: _Keys, config: dict[str, Any]) -> dict[str, Any]:
    blocks, pattern = config["num_hidden_layers"], keys.get("attention.sliding_window_pattern", 6)
    slides = pattern if isinstance(pattern, list) else [index % pattern != pattern - 1 for index in range(blocks)]
    # llama.cpp's rule: 1/sqrt(head size), but 1/sqrt(width / heads) in the model of 62 blocks.
    scale = config["hidden_size"] // config["num_attention_heads"] if blocks == 62 else config["head_dim"]
    return {
        "layer_types": ["sliding_attention" if slide else "full_attention" for slide in slides],
        "sliding_window": keys.get("attention.sliding_window", config["max_position_embeddings"]),
        "query_pre_attn_scalar": scale,
    }
