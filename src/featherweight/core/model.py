"""A model in the making: configuration, tensors with their number formats, tokenizer folder, lineage.

Immutable: every technique returns a new `Model` that shares the untouched tensors. Weights stay on disk until used.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.architecture import EMBEDDING, HEAD, Architecture, describe, register_variant, require_known
from featherweight.core.checkpoint import Entry, Stored, entry_of, read_entries, values, write_tensors
from featherweight.core.errors import CheckpointError
from featherweight.core.lazy import torch, transformers
from featherweight.core.whole import whole_folder

COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "tokenizer.gguf",
)  # fmt: skip
EXTRA = "extra"  # a folder of its own: other tools read every safetensors file beside config.json
MASK = "U8"  # packed masks lie among the tensors in this type, and nothing else does
_IDENTITY = ("tokenizer.json", "tokenizer.model", "chat_template.jinja")
_VOLATILE = {"transformers_version", "dtype", "torch_dtype", "quantization_config"}


@dataclass(frozen=True)
class Model:
    """A causal language model.

    Attributes:
        config: `config.json` as a dict.
        entries: tensors by parameter name.
        folder: where the tokenizer and its companions lie.
        lineage: hashes of the receipts that led here, oldest first.
        planned: formats that a quantizer should use, by parameter name (set by `mixed-precision`).
        extra: tensors that belong to no parameter of the model's class, such as a task's head.
    """

    config: Mapping[str, Any]
    entries: Mapping[str, Entry]
    folder: Path
    lineage: tuple[str, ...] = ()
    planned: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Entry] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration with the architecture's defaults filled in."""
        return self.hf_config().to_dict()

    @functools.cached_property
    def architecture(self) -> Architecture:
        require_known(str(self.config.get("model_type", "missing")), str(self.folder))
        return describe(self.settings, str(self.folder))

    def hf_config(self) -> Any:
        """The transformers configuration object."""
        register_variant(str(self.config["model_type"]))
        fields = {key: value for key, value in self.config.items() if key not in ("model_type", "quantization_config")}
        return transformers.AutoConfig.for_model(str(self.config["model_type"]), **fields)

    def tensor(self, name: str) -> torch.Tensor:
        """The values of a parameter as float32, rounded formats read back exactly."""
        return values(self.entries[name].load())

    def stored(self, name: str) -> Stored:
        """A parameter as it is kept: a tensor, or a `Packed`."""
        return self.entries[name].load()

    @property
    def nbytes(self) -> int:
        """Stored bytes of all tensors."""
        return sum(entry.nbytes for entry in (*self.entries.values(), *self.extra.values()))

    @property
    def parameters(self) -> int:
        """Number of weights; masks are none."""
        entries = (*self.entries.values(), *self.extra.values())
        return sum(int(torch.Size(entry.shape).numel()) for entry in entries if entry.format != MASK)

    def bf16_bytes(self) -> int:
        """Bytes of all tensors if each were stored in bf16."""
        return 2 * self.parameters

    def with_changes(
        self,
        tensors: Mapping[str, Stored | Entry] | None = None,
        drop: Iterable[str] = (),
        config: Mapping[str, Any] | None = None,
        planned: Mapping[str, str] | None = None,
    ) -> Model:
        """A new model with some tensors replaced or dropped, configuration keys updated, formats planned."""
        entries = {name: entry for name, entry in self.entries.items() if name not in set(drop)}
        for name, stored in (tensors or {}).items():
            entries[name] = stored if isinstance(stored, Entry) else entry_of(stored)
        return Model(
            config={**self.config, **(config or {})},
            entries=entries,
            folder=self.folder,
            lineage=self.lineage,
            planned=dict(self.planned if planned is None else planned),
            extra=self.extra,
        )

    def with_extra(self, tensors: Mapping[str, torch.Tensor]) -> Model:
        """The same model with other extra tensors."""
        return dataclasses.replace(self, extra={name: entry_of(tensor) for name, tensor in tensors.items()})

    def with_receipt(self, digest: str) -> Model:
        """The same model, one receipt further."""
        return dataclasses.replace(self, lineage=(*self.lineage, digest))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, formats, shapes and bytes of all tensors, configuration, tokenizer, chat template.

        The same for sharded and single files; another for a change of one unit in the last place.
        """
        hashed = hashlib.sha256()
        for name in sorted(self.entries):
            hashed.update(f"{name}={self._digest(name)}\n".encode())
        for name in sorted(self.extra):
            hashed.update(f"{EXTRA}/{name}={self.extra[name].digest}\n".encode())
        config = {key: value for key, value in self.config.items() if key not in _VOLATILE and key[:1] != "_"}
        hashed.update(json.dumps(config, sort_keys=True).encode())
        hashed.update(self.tokenizer_digest.encode())
        return hashed.hexdigest()

    def _digest(self, name: str) -> str:
        try:
            return self.entries[name].digest
        except CheckpointError as error:
            raise CheckpointError(f"{self.folder}, {name}", error.why, error.mend) from None

    @functools.cached_property
    def tokenizer_digest(self) -> str:
        """SHA-256 of the tokenizer and the chat template."""
        hashed = hashlib.sha256()
        for name in _IDENTITY:
            path = self.folder / name
            hashed.update(name.encode() + (path.read_bytes() if path.is_file() else b""))
        return hashed.hexdigest()

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""
        try:
            return transformers.AutoTokenizer.from_pretrained(str(self.folder))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                str(self.folder), f"has no usable tokenizer ({error})", "add tokenizer.json"
            ) from None

    def skeleton(self) -> Any:
        """The transformers module with every parameter on the meta device and every buffer real."""
        from accelerate import init_empty_weights

        config = self.hf_config()
        with init_empty_weights(include_buffers=False):
            module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return module.eval().requires_grad_(False)

    def module(self, dtype: torch.dtype | None = None) -> Any:
        """The whole transformers module, in memory, float32 unless asked otherwise."""
        module = self.skeleton()
        state = {name: self._typed(name, dtype or torch.float32) for name in self.entries}
        if self.architecture.tied:
            state[HEAD] = state[EMBEDDING]
        module.load_state_dict(state, assign=True)
        module.tie_weights()
        return module.eval().requires_grad_(False)

    def _typed(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        found = self.tensor(name)
        return found.to(dtype) if found.is_floating_point() else found

    def save(self, target: Path) -> None:
        """Writes the model as a folder that `open_folder` reads: whole, or not at all."""
        with whole_folder(target) as draft:
            self.write(draft)

    def write(self, folder: Path, progress: Callable[[int], None] | None = None, threads: int = 1) -> None:
        """Writes tensors, configuration and companions into an existing folder.

        Args:
            folder: where to.
            progress: called with the bytes of every tensor that is written.
            threads: that load and write tensors; each holds one.
        """
        write_tensors(folder, self.entries, progress, threads)
        write_extra(folder, self.extra)
        (folder / "config.json").write_text(json.dumps(dict(self.config), indent=2) + "\n", encoding="utf-8")
        copy_companions(self.folder, folder)


def write_extra(folder: Path, extra: Mapping[str, Entry]) -> None:
    """Writes extra tensors, where there are any, into a folder of their own in a model folder."""
    if extra:
        (folder / EXTRA).mkdir()
        write_tensors(folder / EXTRA, extra)


def read_extra(folder: Path) -> dict[str, Entry]:
    """The extra tensors of a model folder."""
    return read_entries(folder / EXTRA) if (folder / EXTRA).is_dir() else {}


def copy_companions(source: Path, target: Path) -> None:
    """Copies the tokenizer, chat template and generation settings."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
