"""What chat formats without marks around turns have in common."""

from __future__ import annotations

from collections.abc import Sequence


class UnmarkedFormat:
    """Puts nothing around questions and answers, and knows the tokens of no saved answer."""

    __slots__ = ()

    def closing(self) -> list[int]:
        """Nothing."""
        return []

    def answered(self) -> list[int]:
        """Nothing."""
        return []

    def between(self) -> list[int]:
        """Nothing."""
        return []

    def spells(self, tokens: Sequence[int], text: str) -> bool:  # noqa: ARG002
        """No tokens are known."""
        return False
