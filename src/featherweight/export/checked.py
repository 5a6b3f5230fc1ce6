"""Exports that exist only if they were checked: written under a temporary name, reloaded, then renamed."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from featherweight.core.errors import OutputError
from featherweight.core.model import Model
from featherweight.core.whole import whole_folder
from featherweight.export import gguf, hugging_face
from featherweight.export.reload import Reload, check_reload


def export_gguf(model: Model, path: Path, matrices: gguf.Matrices = "BF16") -> Reload:
    """Writes a GGUF file and loads it in llama.cpp; the file appears only if that gives the same model.

    Raises:
        FormatError: the model cannot be expressed in GGUF.
        OutputError: the file exists, cannot be written, or computes something else.
    """
    if path.exists():
        raise OutputError(str(path), "exists already", "choose another file or remove it")
    draft = path.with_name(f".{path.stem}.{os.getpid()}.gguf")
    try:
        gguf.write_gguf(model, draft, matrices)
        found = check_reload(gguf.as_stored(model, matrices), draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return dataclasses.replace(found, path=path)


def export_hugging_face(model: Model, folder: Path, dtype: hugging_face.Dtype = "bfloat16") -> Reload:
    """Writes a Hugging Face folder and loads it in transformers; it appears only if that gives the same model.

    Raises:
        FormatError: the model cannot be expressed in such a folder.
        OutputError: the folder exists, cannot be written, or computes something else.
    """
    with whole_folder(folder) as draft:
        hugging_face.write_hugging_face(model, draft, dtype)
        found = check_reload(hugging_face.as_stored(model, dtype), draft)
    return dataclasses.replace(found, path=folder)
