"""Finds the model that a person names: a folder, a GGUF file, the embedded default, or a name on the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from featherweight.core import embedded
from featherweight.core.architecture import require_known
from featherweight.core.checkpoint import read_config, read_entries
from featherweight.core.errors import CheckpointError
from featherweight.core.gguf_file import open_gguf
from featherweight.core.model import Model, read_extra
from featherweight.core.quantized_folder import join_quantized


def default_cache() -> Path:
    """The user's cache folder for converted models."""
    base = os.environ.get("FEATHERWEIGHT_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "featherweight"


def open_model(name: str | Path, cache: Path | None = None, trust: bool = False, check: bool = True) -> Model:
    """The model called `name`.

    Args:
        name: a Hugging Face folder, a .gguf file, "smollm2-135m", or a hub name such as "org/model".
        cache: where converted models are kept.
        trust: allow pickled weights.
        check: whether the tensors of a folder are compared with its configuration; else that is the caller's to do.

    Raises:
        CheckpointError: it cannot be found or read; UnsupportedArchitecture: it can, but is not known.
    """
    cache = cache or default_cache()
    path = Path(name)
    if str(name) == embedded.NAME and not path.exists():
        return open_folder(embedded.prepare(cache), trust)
    if path.suffix == ".gguf":
        return open_gguf(path, cache)
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if found and not (path / "config.json").is_file():
            return open_gguf(found[0], cache)
        return open_folder(path, trust, check)
    if not path.exists() and str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        return open_folder(_download(str(name)), trust, check)
    if path.exists():
        raise CheckpointError(str(name), "is not a model", "give a model folder, a .gguf file or smollm2-135m")
    raise CheckpointError(str(name), "does not exist", "give a model folder, a .gguf file or smollm2-135m")


def open_folder(folder: Path, trust: bool = False, check: bool = True) -> Model:
    """The model in a Hugging Face folder, or in a folder that a step of ours wrote; arguments as for `open_model`."""
    config = read_config(folder)
    require_known(str(config.get("model_type", "missing")), str(folder))
    # What the file says is known without transformers, whose import takes longer than merging a small model.
    tied = bool(config["tie_word_embeddings"]) if "tie_word_embeddings" in config else _tied(config, folder)
    entries = join_quantized(read_entries(folder, trust), config, folder)
    config.pop("quantization_config", None)  # the entries hold the formats from here on
    kept = {name: entry for name, entry in entries.items() if not _redundant(name, tied)}
    opened = Model(config, kept, folder, extra=read_extra(folder))
    if check:
        _check_complete(opened)
    return opened


def _tied(config: dict[str, Any], folder: Path) -> bool:
    return Model(config, {}, folder).architecture.tied


def _redundant(name: str, tied: bool) -> bool:
    return name.endswith(".rotary_emb.inv_freq") or (tied and name == "lm_head.weight")


def _check_complete(model: Model) -> None:
    """Refuses a folder whose tensors are not those of its configuration."""
    expected = {name: tuple(value.shape) for name, value in model.skeleton().state_dict().items()}
    if model.architecture.tied:
        expected.pop("lm_head.weight", None)
    for name, shape in expected.items():
        if name not in model.entries:
            raise CheckpointError(str(model.folder), f"lacks the tensor {name}", "download the model again")
        if model.entries[name].shape != shape:
            raise CheckpointError(
                str(model.folder),
                f"holds {name} with shape {list(model.entries[name].shape)} where its config.json says {list(shape)}",
                "use the config.json that belongs to these weights",
            )
    extra = sorted(set(model.entries) - set(expected))
    if extra:
        raise CheckpointError(
            str(model.folder), f"holds the tensor {extra[0]}, which its config.json has no place for",
            "use the config.json that belongs to these weights",
        )  # fmt: skip


def _download(name: str) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt", "README.md"]
            )
        )
    except Exception as error:  # many kinds: offline, not found, gated
        raise CheckpointError(
            name, f"is no local folder and cannot be had from the hub ({type(error).__name__})",
            "check the name and the network, or give a local folder",
        ) from None  # fmt: skip
