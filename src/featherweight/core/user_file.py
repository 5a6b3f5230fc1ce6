"""Files that a user names: text, lines or a JSON object, or an error that says what to give; and their digest.

What a line means is the reader's: it knows how its error should go on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError, FeatherweightError


def read_text(path: str | Path, called: str, mend: str) -> str:
    """The text of a file.

    Args:
        path: as the user wrote it, or as a path.
        called: names the file in the error that it does not exist.
        mend: what to give then.

    Raises:
        DataError: it is missing, or is no UTF-8 text.
    """
    if not Path(path).is_file():
        raise DataError(called, "does not exist", mend)
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(str(path), "is not UTF-8 text", "convert it, for example with iconv") from None


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number from 1."""
    # Not splitlines: what else it takes for the end of a line may stand inside a JSON string.
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def read_json_object(path: Path, refused: type[FeatherweightError], mend: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: it exists.
        refused: the error of a file that holds something else.
        mend: what to do then.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise refused(str(path), f"is not valid JSON ({error})", mend) from None
    if not isinstance(found, dict):
        raise refused(str(path), "is not a JSON object", mend)
    return found


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
