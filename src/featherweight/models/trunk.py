"""The first blocks of a transformers model, without what comes after them, as a module and as plain JSON.

hidden_states[l] is what l blocks have computed; 0 are the embeddings. In most language models the last one of all has
been through the final norm and the others have not. So a trunk of fewer blocks than the donor has no final norm, and a
trunk of all of them has it: its hidden states are the donor's either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from featherweight.core.errors import UnsupportedArchitecture
from featherweight.core.lazy import torch, transformers

_VOLATILE = ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path", "quantization_config")


def block_list(base: Any) -> tuple[str, int]:
    """Name and length of the list of blocks of a transformers model without a head.

    Raises:
        UnsupportedArchitecture: it has none as long as its configuration says.
    """
    count = getattr(base.config, "num_hidden_layers", None)
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, len(module)
    raise UnsupportedArchitecture(
        type(base).__name__, f"has no list of {count} blocks" if count else "has no num_hidden_layers",
        "give an encoder or a decoder made of equal blocks, or its torch.nn parts",
    )  # fmt: skip


def cut_config(config: Any, blocks: int) -> dict[str, Any]:
    """The configuration of the first `blocks` blocks, in plain JSON."""
    plain = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
    key = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    count = plain[key]
    for name, value in plain.items():
        if "layer" in name and isinstance(value, list) and len(value) == count:
            plain[name] = value[:blocks]
    return {**plain, key: blocks, "use_cache": False}


def cut_trunk(base: Any, blocks: int, example: Mapping[str, torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    """The first `blocks` blocks of a donor and what comes before them, copied; and the description of it.

    Args:
        base: a transformers model without a head.
        blocks: how many stay.
        example: inputs, to see which modules run before the last of these blocks has.
    """
    name, count = block_list(base)
    after = [] if blocks == count else _after(base, f"{name}.{blocks - 1}", example)
    absent = {each for each in after if not each.startswith(f"{name}.")}
    config = cut_config(base.config, blocks)
    trunk = build_trunk({"config": config, "absent": []})
    # The class makes what the donor was made without, such as a pooler.
    absent |= {each for each, _ in trunk.named_children() if getattr(base, each, None) is None}
    _take_away(trunk, absent)
    description = {"kind": "transformers", "config": config, "absent": sorted(absent)}
    kept = set(trunk.state_dict())
    trunk.load_state_dict({key: value.float() for key, value in base.state_dict().items() if key in kept})
    return trunk.eval().requires_grad_(False), description


def _after(base: Any, last: str, example: Mapping[str, torch.Tensor]) -> list[str]:
    """The outermost modules with parameters that have not begun when the module `last` ends."""
    begun: set[str] = set()
    done: list[bool] = []
    handles = []
    for name, module in base.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: None if done else begun.add(name)))
    handles.append(base.get_submodule(last).register_forward_hook(lambda *_: done.append(True)))
    try:
        with torch.no_grad():
            base(**example)
    finally:
        for handle in handles:
            handle.remove()
    idle = [
        name for name, module in base.named_modules() if name not in begun and any(True for _ in module.parameters())
    ]
    idle = [name for name in idle if not any(each.startswith(f"{name}.") for each in begun)]
    return [name for name in idle if not any(name.startswith(f"{other}.") for other in idle)]


def build_trunk(description: Mapping[str, Any]) -> Any:
    """A transformers trunk with fresh weights."""
    config = transformers.AutoConfig.for_model(**description["config"])
    trunk = transformers.AutoModel.from_config(config, dtype=torch.float32)
    _take_away(trunk, description["absent"])
    return trunk


def _take_away(trunk: Any, names: Iterable[str]) -> None:
    """Identities take the place of modules: the class may still call them, and they hold no weights."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(trunk.get_submodule(owner), leaf, torch.nn.Identity())
