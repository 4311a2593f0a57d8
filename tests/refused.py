"""How every command refuses what it cannot do."""

from __future__ import annotations

from typing import Any


def fails_with(result: Any, code: int, *words: str) -> None:
    """Check for one sentence, one hint, the exit code, nothing on stdout and no traceback."""
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    error, hint = result.err.strip().splitlines()[-2:]
    assert error.startswith("Error: ")
    assert hint.startswith("Hint: ")
    for word in words:
        assert word in result.err
