"""A Hugging Face folder as stock transformers loads it, without a word of ours in between.

Only the classes that stock transformers lacks are registered first (see `core.architecture.register_variant`).
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from featherweight.core.architecture import register_variant
from featherweight.core.checkpoint import read_config
from featherweight.core.errors import CheckpointError
from featherweight.core.lazy import torch, transformers


def load_folder(path: Path, dtype: str = "auto") -> Any:
    """The module in a folder, its quantized weights expanded, in evaluation mode.

    Args:
        path: the folder.
        dtype: "auto" takes the type that the folder names.

    Raises:
        CheckpointError: transformers cannot load it; its own reason is in the message.
    """
    register_variant(str(read_config(path).get("model_type")))
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars of three libraries; errors are raised
        try:
            module = transformers.AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype)
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            raise CheckpointError(str(path), f"cannot be loaded by transformers ({error})", "export it again") from None
        with torch.no_grad():
            module(torch.tensor([[0]]))  # compressed-tensors expands weights at the first call
    return module.eval().requires_grad_(False)
