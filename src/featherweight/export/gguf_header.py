"""Hyper-parameters of a model as GGUF metadata, and the rotary factors that llama.cpp wants as tensors.

What llama.cpp would silently compute differently is refused here: an activation, a rotary scaling or an attention
pattern that it has no key for. Where it knows no sliding window (everything but Gemma 3), the context length is cut to
the window: inside it full attention is the same function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.core.errors import FormatError
from featherweight.core.lazy import gguf, torch
from featherweight.core.model import Model

_ACTIVATIONS = {"gemma3_text": "gelu_pytorch_tanh"}
_SQUARE_QUERIES = ("qwen2", "phi3")
_PATTERN = 6  # llama.cpp takes every sixth block of Gemma 3 for a global one unless the file says otherwise
_FILE_TYPES = {"F32": "ALL_F32", "Q3_K": "MOSTLY_Q3_K_M", "Q4_K": "MOSTLY_Q4_K_M", "Q5_K": "MOSTLY_Q5_K_M"}


def add_hyper_parameters(writer: Any, model: Model) -> None:
    """Writes everything that llama.cpp must know of the model except its tokenizer.

    Raises:
        FormatError: llama.cpp would compute another function than the model.
    """
    settings, architecture = model.settings, model.architecture
    require_expressible(model)
    writer.add_type("model")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(context_length(model))
    writer.add_block_count(architecture.blocks)
    writer.add_embedding_length(architecture.size("hidden"))
    writer.add_feed_forward_length(architecture.size("ffn"))
    writer.add_head_count(int(settings["num_attention_heads"]))
    writer.add_head_count_kv(architecture.kv_heads)
    writer.add_key_length(architecture.head_dim)
    writer.add_value_length(architecture.head_dim)
    writer.add_layer_norm_rms_eps(float(settings["rms_norm_eps"]))
    writer.add_vocab_size(architecture.size("vocab"))
    _add_rope(writer, model)
    _add_window(writer, model)


def file_type(formats: Sequence[str]) -> int:
    """llama.cpp's number for a file whose matrices have these formats: the one of the commonest."""
    name = max(sorted(set(formats)), key=formats.count)
    kind = _FILE_TYPES.get(name, f"MOSTLY_{name}")
    return int(gguf.LlamaFileType[kind] if kind in gguf.LlamaFileType.__members__ else gguf.LlamaFileType.GUESSED)


def require_expressible(model: Model) -> None:
    """Refuses what llama.cpp would compute differently without saying so."""
    settings, kind = model.settings, model.architecture.model_type
    activation = settings.get("hidden_activation" if kind == "gemma3_text" else "hidden_act")
    if activation != _ACTIVATIONS.get(kind, "silu"):
        raise _inexpressible(model, f"its activation {activation!r} is not the one that llama.cpp computes for {kind}")
    if settings.get("attention_bias") and kind != "llama":
        raise _inexpressible(model, f"llama.cpp has no place for attention biases in {kind}")
    if kind in _SQUARE_QUERIES and model.architecture.size("query") != model.architecture.size("hidden"):
        raise _inexpressible(model, f"llama.cpp wants as many query rows as hidden channels in {kind}")
    if kind == "gemma3_text":
        _require_plain_gemma(model)


def _require_plain_gemma(model: Model) -> None:
    settings = model.settings
    for key in ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"):
        if settings.get(key):
            raise _inexpressible(model, f"llama.cpp does not compute {key} for Gemma 3")
    # llama.cpp takes the scale from the head size, except in a model of 62 blocks, where it takes hidden / heads.
    width = model.architecture.size("hidden") / int(settings["num_attention_heads"])
    assumed = width if model.architecture.blocks == 62 else model.architecture.head_dim
    scalar = settings["query_pre_attn_scalar"]
    if scalar != assumed:
        raise _inexpressible(model, f"its attention scale 1/sqrt({scalar}) is not llama.cpp's 1/sqrt({assumed:g})")


def _inexpressible(model: Model, why: str) -> FormatError:
    return FormatError(f"GGUF export of {model.folder.name}", why, "export a Hugging Face folder instead")


def _rope(model: Model) -> Mapping[str, Any]:
    """The rotary parameters, of the global blocks where kinds of blocks differ."""
    parameters = model.settings["rope_parameters"]
    return dict(parameters.get("full_attention", parameters))


def _add_rope(writer: Any, model: Model) -> None:
    rope = _rope(model)
    writer.add_rope_dimension_count(int(model.architecture.head_dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind == "yarn":
        _add_yarn(writer, model, rope)
    elif kind == "longrope" and model.architecture.gguf == "phi3":
        writer.add_rope_scaling_orig_ctx_len(_original_length(model, rope))
        writer.add_rope_scaling_attn_factors(float(model.skeleton().model.rotary_emb.attention_scaling))
    elif kind != "default" and not (kind == "llama3" and model.architecture.gguf == "llama"):
        raise _inexpressible(model, f"llama.cpp does not know its rotary scaling {kind!r} for this architecture")


def _add_yarn(writer: Any, model: Model, rope: Mapping[str, Any]) -> None:
    if not rope.get("truncate", True) or (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1) != (32, 1):
        raise _inexpressible(model, "llama.cpp computes YaRN only with beta_fast 32, beta_slow 1 and truncation")
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_rope_scaling_orig_ctx_len(_original_length(model, rope))
    # llama.cpp multiplies by this factor of its own accord.
    own = 1 + 0.1 * math.log(float(rope["factor"]))
    writer.add_rope_scaling_attn_factors(float(model.skeleton().model.rotary_emb.attention_scaling) / own)


def _original_length(model: Model, rope: Mapping[str, Any]) -> int:
    settings = model.settings
    length = rope.get("original_max_position_embeddings") or settings.get("original_max_position_embeddings")
    return int(length or settings["max_position_embeddings"])


def rotary_tensors(model: Model) -> dict[str, torch.Tensor]:
    """Rotary factors that llama.cpp reads as tensors, float32 [rotary pairs] by GGUF name; mostly none."""
    rope = _rope(model)
    if rope.get("rope_type") == "llama3":
        scaled = model.skeleton().model.rotary_emb.inv_freq.float().cpu()
        steps = torch.arange(0, model.architecture.head_dim, 2).float() / model.architecture.head_dim
        return {"rope_freqs.weight": float(rope["rope_theta"]) ** -steps / scaled}
    if rope.get("rope_type") == "longrope":
        parts = (("rope_factors_long.weight", "long_factor"), ("rope_factors_short.weight", "short_factor"))
        return {name: torch.tensor(rope[key], dtype=torch.float32) for name, key in parts}
    return {}


def _window(model: Model) -> int | None:
    """The sliding window of any block, or None where every block sees everything."""
    settings = model.settings
    kinds = settings.get("layer_types")
    active = settings.get("use_sliding_window", True) and (kinds is None or "sliding_attention" in kinds)
    return int(settings["sliding_window"]) if active and settings.get("sliding_window") else None


def context_length(model: Model) -> int:
    """Tokens up to which llama.cpp computes the model's function."""
    length, window = int(model.settings["max_position_embeddings"]), _window(model)
    return length if window is None or model.architecture.gguf == "gemma3" else min(length, window)


def _add_window(writer: Any, model: Model) -> None:
    """Gemma 3: which blocks see only a window, by their position."""
    window = _window(model)
    if model.architecture.gguf != "gemma3" or window is None:
        return
    writer.add_sliding_window(window)
    writer.add_sliding_window_pattern(_pattern(model))
    writer.add_rope_freq_base_swa(float(model.settings["rope_parameters"]["sliding_attention"]["rope_theta"]))


def _pattern(model: Model) -> Any:
    """The n for which every n-th block is global, or, where blocks were dropped, whether each block slides.

    llama.cpp reads either; builds of before 2026 know only the number.
    """
    kinds: list[str] = list(model.settings["layer_types"])
    for period in (_PATTERN, *range(2, len(kinds) + 2)):
        if kinds == [_kind_at(index, period) for index in range(len(kinds))]:
            return period
    return [kind == "sliding_attention" for kind in kinds]


def _kind_at(index: int, period: int) -> str:
    return "full_attention" if index % period == period - 1 else "sliding_attention"
