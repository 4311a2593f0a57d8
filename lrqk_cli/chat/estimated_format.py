"""A chat format whose tokens only a server knows: as many stand for a text as it usually has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lrqk_cli.models.unmarked import UnmarkedFormat

# UTF-8 bytes of a token: English prose has about 4.5, code and other languages have fewer.
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class EstimatedFormat(UnmarkedFormat):
    """See ``ChatFormat``; the marks of turns count nothing, and all tokens are 0."""

    system: str | None = None
    thinks: bool = False
    reasoning: None = None
    counts_exactly: bool = False

    def with_system(self, system: str | None) -> EstimatedFormat:
        """Return the same format with another system text."""
        return replace(self, system=system)

    def with_thinking(self, thinks: bool) -> EstimatedFormat:
        """Return the same format with reasoning on or off; the server knows whether its model reasons."""
        return replace(self, thinks=thinks)

    def opening(self) -> list[int]:
        """Stand for the system text."""
        return self.text(self.system or "")

    def goes_on(self, tokens: Sequence[int]) -> bool:  # noqa: ARG002
        """Only the server knows."""
        return False

    def text(self, text: str, after: Sequence[int] = ()) -> list[int]:  # noqa: ARG002
        """Return about as many tokens as the text has."""
        return [0] * -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
