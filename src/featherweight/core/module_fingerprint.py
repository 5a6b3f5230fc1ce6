"""What tells one `torch.nn` module from another: a digest of all names, types, shapes and bytes of its state.

For models that are not language models of ours; those have `Model.fingerprint`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from featherweight.core.checkpoint import entry_of

if TYPE_CHECKING:
    import torch


def module_fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over parameters and buffers; another for a change of one unit in the last place.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    hashed = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        hashed.update(f"{name}={entry_of(value.detach().cpu()).digest}\n".encode())
    return hashed.hexdigest()
