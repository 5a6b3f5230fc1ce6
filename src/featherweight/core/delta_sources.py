"""Finds the deltas that a person names, and refuses those that do not belong to the base.

A name is a fine-tuned model (a folder, a .gguf file of plain numbers, a hub name), a PEFT folder with a LoRA adapter,
or a .safetensors file with a task vector. Another base is refused where the source knows its own (adapters of ours,
task vectors of ours, models that were merged here); another configuration, tokenizer, shape or number type always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.adapter_facts import require_base
from featherweight.core.adapter_folder import CONFIG, read_adapter
from featherweight.core.adapter_merge import require_separable
from featherweight.core.deltas import AdapterDelta, Delta, ModelDelta, adapter_digest
from featherweight.core.errors import MergeError
from featherweight.core.formats import FLOATS
from featherweight.core.merge_ledger import FACTS
from featherweight.core.model import Model
from featherweight.core.source import open_model
from featherweight.core.task_vector import VectorDelta
from featherweight.core.user_file import digest_of, read_json_object

# What of a configuration changes no tensor's meaning: fine-tunes write it anew.
_FREE = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "id2label", "label2id",
    "max_position_embeddings", "pad_token_id", "quantization_config", "torch_dtype", "transformers_version",
    "use_cache",
}  # fmt: skip


def open_deltas(
    sources: Sequence[str | Path], base: Model, cache: Path | None = None, trust: bool = False
) -> tuple[Delta, ...]:
    """The deltas, in the order in which they are named.

    Raises:
        MergeError: there is none, or one does not belong to the base.
        CheckpointError, AdapterError: one cannot be found or read.
    """
    if not sources:
        raise MergeError("a merge of no model", "has nothing to merge", "name at least one fine-tune of the base")
    require_plain(base)
    names = names_of(sources)
    return tuple(
        open_delta(source, name, base, cache, trust) for source, name in zip(sources, names, strict=True)
    )  # fmt: skip


def open_delta(source: str | Path, name: str, base: Model, cache: Path | None = None, trust: bool = False) -> Delta:
    """One delta; errors as for `open_deltas`."""
    path = Path(source)
    if (path / CONFIG).is_file():
        adapter = read_adapter(path)
        require_base(adapter, base)
        require_separable(adapter, base)
        return AdapterDelta(name, path, adapter, base)
    if path.suffix == ".safetensors" and path.is_file():
        return VectorDelta(name, path, base)
    if path.is_dir() and path.resolve() == base.folder.resolve():
        return ModelDelta(name, path, base, base)
    model = open_model(source, cache, trust, check=False)  # its configuration and shapes must be the base's
    require_like(model, base, str(source))
    return ModelDelta(name, path, model)


def source_digest(source: str | Path) -> str:
    """What identifies a delta, without its base."""
    path = Path(source)
    if (path / CONFIG).is_file():
        return adapter_digest(path)
    if path.suffix == ".safetensors" and path.is_file():
        return digest_of(path)
    return open_model(source).fingerprint


def names_of(sources: Iterable[str | Path]) -> list[str]:
    """A short name for each: its last part, with more of its path or a number where two would be the same."""
    paths = [Path(source) for source in sources]
    names: list[str] = []
    for path in paths:
        same = [each for each in paths if each.name == path.name and each != path]
        name = "/".join(path.parts[-2:]) if same else path.name
        count = sum(each == name or each.startswith(f"{name}#") for each in names)
        names.append(f"{name}#{count + 1}" if count else name)
    return names


def require_plain(model: Model) -> None:
    """Refuses a model that holds rounded tensors: what rounding changed is no delta of a fine-tune.

    Raises:
        MergeError: names the first one.
    """
    for name, entry in model.entries.items():
        if entry.format not in FLOATS:
            raise MergeError(
                f"{model.folder}, {name}", f"is of the type {entry.format}",
                "merge models of plain floating-point numbers, before they are rounded",
            )  # fmt: skip


def require_like(model: Model, base: Model, called: str) -> None:
    """Refuses a model that is no fine-tune of the base.

    Raises:
        MergeError: another configuration, tokenizer or shape; rounded tensors; a head of its own.
    """
    require_plain(model)
    _require_base(model, base, called)
    _require_same_settings(model, base, called)
    for name in sorted(base.entries.keys() ^ model.entries.keys()):
        lacks = "lacks the tensor" if name in base.entries else "holds the tensor"
        raise MergeError(called, f"{lacks} {name}, unlike the base", "give a fine-tune of this base")
    for name, entry in base.entries.items():
        if model.entries[name].shape != entry.shape:
            raise MergeError(
                f"{called}, {name}",
                f"has the shape {list(model.entries[name].shape)}, and that of the base is {list(entry.shape)}",
                "give a fine-tune of this base",
            )
    if {name: each.digest for name, each in model.extra.items()} != {
        name: each.digest for name, each in base.extra.items()
    }:
        raise MergeError(called, "carries a task's head, which the base does not", "merge the models without heads")
    _require_same_tokens(model, base, called)


def _require_base(model: Model, base: Model, called: str) -> None:
    """A model that was merged here says from which base."""
    path = model.folder / FACTS
    if not path.is_file():
        return
    wanted = str(dict(read_json_object(path, MergeError, "merge it again").get("base") or {}).get("fingerprint"))
    if wanted != base.fingerprint:
        raise MergeError(
            called, f"was merged from another base: its fingerprint is {wanted[:12]}, and {base.folder} has "
            f"{base.fingerprint[:12]}", "give that base",
        )  # fmt: skip


def _require_same_settings(model: Model, base: Model, called: str) -> None:
    """Compares what the files say, and only where that differs what it means with all defaults filled in."""
    if _meant(model.config) == _meant(base.config):
        return
    own, wanted = _meant(model.settings), _meant(base.settings)
    for key in sorted(own.keys() | wanted.keys()):
        if own.get(key) != wanted.get(key):
            raise MergeError(
                called, f"has {key} = {_short(own.get(key))}, and the base {_short(wanted.get(key))}",
                "give a fine-tune of this base",
            )  # fmt: skip


def _meant(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _FREE}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _require_same_tokens(model: Model, base: Model, called: str) -> None:
    """Chat templates may differ, and the base's is kept; a model without any tokenizer cannot say and is believed."""
    if model.tokenizer_digest == base.tokenizer_digest or not (_has_tokenizer(model) and _has_tokenizer(base)):
        return
    if dict(model.tokenizer.get_vocab()) != dict(base.tokenizer.get_vocab()):
        raise MergeError(called, "has another vocabulary than the base", "give a fine-tune with the base's tokenizer")


def _has_tokenizer(model: Model) -> bool:
    return any((model.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
