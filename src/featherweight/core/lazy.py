"""Heavy libraries, imported at their first use, so that `--help` and `list` answer at once.

`from featherweight.core.lazy import torch` costs nothing until an attribute of `torch` is read.
Type checkers see the real modules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gguf as gguf
    import numpy as np
    import optuna as optuna
    import scipy as scipy
    import torch as torch
    import transformers as transformers
else:

    class _Lazy:
        """Stands for a module until somebody reads one of its attributes."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            value = getattr(importlib.import_module(self._name), attribute)
            self.__dict__[attribute] = value
            return value

        def __repr__(self) -> str:
            return f"<{self._name}, imported when used>"

    gguf = _Lazy("gguf")
    np = _Lazy("numpy")
    optuna = _Lazy("optuna")
    scipy = _Lazy("scipy")
    torch = _Lazy("torch")
    transformers = _Lazy("transformers")

__all__ = ["gguf", "np", "optuna", "scipy", "torch", "transformers"]
