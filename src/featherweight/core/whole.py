"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featherweight.core.errors import OutputError


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary file beside `target` that replaces it when the block ends well, and vanishes when it does not.

    Raises:
        OutputError: it cannot be written.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, target)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` when the block ends well, and vanishes when it does not.

    Raises:
        OutputError: `target` exists, or cannot be written.
    """
    if target.exists():
        raise OutputError(str(target), "exists already", "choose another folder or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(str(target), f"cannot be written ({error.strerror})", "choose another folder") from None
    try:
        yield draft
        draft.chmod(0o755)
        os.replace(draft, target)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unwritten(target: Path, error: OSError) -> OutputError:
    return OutputError(
        str(target), f"could not be written ({error.strerror or error})", "free some space and run again"
    )
