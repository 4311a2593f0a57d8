"""A text that a model goes on with, in place of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrqk_cli.errors import UsageError
from lrqk_cli.models.prompt import encodable
from lrqk_cli.models.unmarked import UnmarkedFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PlainText(UnmarkedFormat):
    """A format without marks: its one question is the text, as the tokenizer reads it.

    That includes control tokens, so it must be trusted, unlike the text of ``ChatPrompt``. There is no system
    text and no reasoning.
    """

    system = None
    thinks = False
    reasoning = None
    counts_exactly = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def with_system(self, system: str | None) -> PlainText:
        """Return this format, which has no system text.

        Raises:
            UsageError: there is to be one.
        """
        if system is not None:
            raise UsageError("A text without a chat format has no system text.", "Write it into the text.")
        return self

    def with_thinking(self, thinks: bool) -> PlainText:
        """Return this format, which has no reasoning.

        Raises:
            UsageError: there is to be some.
        """
        if thinks:
            raise UsageError("A text without a chat format has no reasoning.", "Ask in a conversation.")
        return self

    def text(self, text: str, after: Sequence[int] = ()) -> list[int]:  # noqa: ARG002
        """Encode a text, with the tokens that the tokenizer puts around one, such as BOS."""
        return list(self._tokenizer.encode(encodable(text)))

    def goes_on(self, tokens: Sequence[int]) -> bool:  # noqa: ARG002
        """An answer always goes on with the text."""
        return True

    def opening(self) -> list[int]:
        """Nothing."""
        return []
