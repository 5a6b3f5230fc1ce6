"""The command line: one file a verb; each parses, calls the verb and prints. No logic here."""

from __future__ import annotations

import errno
import os
import sys

_INTERRUPTED = 130  # what Typer makes of Ctrl-C


def main() -> None:
    """Entry point: runs a verb and turns errors into exit status 2."""
    # Set before torch starts its threads: spinning threads on a busy machine are several times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from featherweight.cli.app import app
    from featherweight.core.errors import FeatherweightError

    try:
        app()
    except FeatherweightError as error:
        _fail(str(error), 2)
    except SystemExit as ended:
        if ended.code != _INTERRUPTED:
            raise
        _fail("interrupted; the same command with --resume goes on from the last finished step", _INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        _fail(f"{error.filename or 'output'}: {error.strerror}; free some space or choose another folder", 2)


def _fail(message: str, status: int) -> None:
    print(f"featherweight: {message}", file=sys.stderr)
    raise SystemExit(status)
