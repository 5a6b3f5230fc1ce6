"""How GGUF files name and arrange the parameters of each supported architecture; used to read and to write them.

llama.cpp keeps the query and key rows of Llama-like models with the two halves of each rotary pair interleaved.
"""

from __future__ import annotations

from featherweight.core.architecture import Architecture, block_part
from featherweight.core.lazy import gguf, torch


def gguf_names(architecture: Architecture, names: list[str]) -> dict[str, str]:
    """The GGUF name of every parameter name."""
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture.gguf)
    table = gguf.get_tensor_name_map(kind, architecture.blocks)
    found = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
    missing = [name for name, target in found.items() if target is None]
    if missing:
        raise KeyError(f"no GGUF name for {missing[0]} of {architecture.model_type}")
    return {name: target for name, target in found.items() if target is not None}


def rotary_rows(architecture: Architecture, name: str) -> torch.Tensor | None:
    """For each GGUF row of a query or key matrix, the row of the Hugging Face matrix; None where they agree."""
    part = block_part(name).rsplit(".", 1)[0]
    if not architecture.rotary_permuted or part not in ("self_attn.q_proj", "self_attn.k_proj"):
        return None
    width, head = architecture.size(architecture.linear_axes[part][0]), architecture.head_dim
    return torch.arange(width).reshape(width // head, 2, head // 2).transpose(1, 2).reshape(-1)
