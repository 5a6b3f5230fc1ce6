"""Store: measurements kept on disk under the hash of everything they depend on.

A measurement that is there is not made again: that is how a killed run resumes and how a new budget on the same model
is solved in seconds. A file appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.lazy import torch
from featherweight.core.whole import whole_file


def key_of(facts: Mapping[str, Any]) -> str:
    """A short hash of plain JSON facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]


@dataclass
class Store:
    """Measurements by name and key.

    Attributes:
        folder: where new ones are written; None keeps them in memory only.
        others: folders of earlier runs to read from as well.
        made: how many measurements were computed rather than found.
    """

    folder: Path | None = None
    others: Sequence[Path] = ()
    made: int = 0
    _memory: dict[str, Any] = field(default_factory=dict)

    def json(self, name: str, facts: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The plain-JSON result of `compute`, found or made."""
        file = f"{name}-{key_of(facts)}.json"
        if file in self._memory:
            return self._memory[file]
        found = self._find(file)
        if found is not None:
            value = json.loads(found.read_text(encoding="utf-8"))["value"]
        else:
            value = json.loads(json.dumps(compute()))
            self.made += 1
            text = json.dumps({"facts": facts, "value": value}, default=str)
            self._write(file, lambda path: path.write_text(text, encoding="utf-8"))
        self._memory[file] = value
        return value

    def tensors(
        self, name: str, facts: Mapping[str, Any], compute: Callable[[], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """The tensors that `compute` returns, found or made."""
        from safetensors.torch import load_file

        file = f"{name}-{key_of(facts)}.safetensors"
        if file in self._memory:
            return self._memory[file]
        found = self._find(file)
        if found is not None:
            value = load_file(found)
        else:
            value = {key: tensor.contiguous() for key, tensor in compute().items()}
            self.made += 1
            self._write(file, lambda path: _save(value, path))
        self._memory[file] = value
        return value

    def has(self, name: str, facts: Mapping[str, Any], suffix: str = "json") -> bool:
        """Whether a measurement need not be made."""
        file = f"{name}-{key_of(facts)}.{suffix}"
        return file in self._memory or self._find(file) is not None

    def _find(self, file: str) -> Path | None:
        folders = [folder for folder in (self.folder, *self.others) if folder is not None]
        return next((folder / file for folder in folders if (folder / file).is_file()), None)

    def _write(self, file: str, write: Callable[[Path], Any]) -> None:
        if self.folder is not None:
            with whole_file(self.folder / file) as draft:
                write(draft)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk is no OSError to safetensors
        raise OSError(str(error)) from error
