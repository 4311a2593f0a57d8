"""Encodes the pieces of a text one after another, as if they were one text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLANK = "▁"
_ENDS_BLANK = (_BLANK, "\n", "<0x0A>")


class PieceEncoder:
    """Encodes pieces of text that follow one another.

    SentencePiece vocabularies such as Llama 2's put a blank ahead of a text, so that its first word is the
    token that it is within a text. Of the pieces of a text only the first may get one: the model would read
    any other as a blank that somebody wrote.

    Attributes:
        puts_blank: the vocabulary does so.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.puts_blank = tokenizer.tokenize("a")[0].startswith(_BLANK)
        self._ahead = cache(self._tokens)

    def first(self, piece: str) -> list[int]:
        """Encode trusted text that begins a text; it may contain control tokens."""
        return self._tokens(piece) if piece else []

    def further(self, piece: str) -> list[int]:
        """Encode trusted text behind another piece; it may contain control tokens."""
        return self._within(piece)

    def text(self, piece: str, *, blank: bool) -> list[int]:
        """Encode untrusted text behind another piece; no control token is looked for in it.

        Args:
            blank: put a blank ahead, if the vocabulary does so with a text.
        """
        return self._within(f" {piece}" if blank and piece and self.puts_blank else piece, is_text=True)

    def before_text(self, piece: str) -> str:
        """Return what comes before text without the blank that ``text`` puts ahead.

        A blank behind another one, or at the start of a line, stays: see ``goes_on``.
        """
        rest = piece.removesuffix(" ")
        return rest if self.puts_blank and not rest.endswith((" ", "\n")) else piece

    def goes_on(self, tokens: Sequence[int]) -> bool:
        """Return whether text behind these tokens gets no blank: they end in one, or in a line's end."""
        return bool(tokens) and str(self._tokenizer.convert_ids_to_tokens(tokens[-1])).endswith(_ENDS_BLANK)

    def _within(self, piece: str, *, is_text: bool = False) -> list[int]:
        if not piece:
            return []
        if self.puts_blank:
            # Another text gets the blank, one of which and the piece no token is made.
            other = "." if piece[0].isspace() and piece[0] != " " else "\n"
            ahead, both = self._ahead(other), self._tokens(f"{other}{piece}", is_text=is_text)
            if both[: len(ahead)] == ahead:
                return both[len(ahead) :]
        return self._tokens(piece, is_text=is_text)

    def _tokens(self, text: str, *, is_text: bool = False) -> list[int]:
        encode = self._tokenizer.encode
        tokens: list[int] = encode(text, add_special_tokens=False, split_special_tokens=is_text)
        return tokens
