"""Files that a user names: their lines keep their numbers, and a digest is that of all bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featherweight.core.user_file import digest_of, numbered_lines


def test_blank_lines_count_and_are_left_out() -> None:
    assert numbered_lines("a\n\n \n b\n") == [(1, "a"), (4, " b")]


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x00\xff" * 300_000)
    assert digest_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_line_separator_inside_a_json_string_ends_no_line() -> None:
    assert numbered_lines('{"text": "one\u2028two"}\n\n{"text": "three"}\n') == [
        (1, '{"text": "one\u2028two"}'), (3, '{"text": "three"}'),
    ]  # fmt: skip
