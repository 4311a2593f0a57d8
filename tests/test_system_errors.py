"""What is said of a file that the system refuses."""

from __future__ import annotations

import errno

import pytest

from lrqk_cli.system_errors import reason_of, refusal_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only file system"),
        (OSError("Consistency check failed."), "consistency check failed"),
        (OSError(), "unknown reason"),
    ],
)
def test_reasons_are_few_words(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


def test_what_the_system_refuses_is_told_from_a_fault_of_lrqk() -> None:
    refused = refusal_of(PermissionError(errno.EACCES, "Permission denied", "/a/b"))
    assert refused is not None
    assert refused.message == "/a/b cannot be read or written: permission denied."
    assert refused.hint
    assert refusal_of(FileNotFoundError(errno.ENOENT, "No such file", "/a/b")) is None
    assert refusal_of(ValueError("x")) is None
