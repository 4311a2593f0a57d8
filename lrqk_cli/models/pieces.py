"""Encodes the pieces of a text one after another, as if they were one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLANK = "▁"
_ENDS_BLANK = (_BLANK, "\n", "<0x0A>")


class PieceEncoder:
    """Encodes a piece of text that follows another one, or begins a text.

    SentencePiece vocabularies such as Llama 2's put a blank ahead of a text, so that its first word is the
    token of that word within a text. A piece that goes on with a text must not get one, which the model would
    read as a second blank.

    Attributes:
        puts_blank: the vocabulary does so.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.puts_blank = tokenizer.tokenize("a")[0].startswith(_BLANK)

    def control(self, piece: str, *, goes_on: bool = False) -> list[int]:
        """Encode trusted text, which may contain control tokens.

        Args:
            goes_on: text comes before it.
        """
        return self._encode(piece, goes_on, is_text=False)

    def text(self, piece: str, *, goes_on: bool = False) -> list[int]:
        """Encode untrusted text, in which no control token is looked for."""
        return self._encode(piece, goes_on, is_text=True)

    def before_text(self, piece: str) -> str:
        """Return what comes before text without the blank that the text is given anyway."""
        return piece.removesuffix(" ") if self.puts_blank else piece

    def goes_on(self, tokens: Sequence[int]) -> bool:
        """Whether text behind these tokens gets no blank: they end in one, or in a line's end."""
        return bool(tokens) and str(self._tokenizer.convert_ids_to_tokens(tokens[-1])).endswith(_ENDS_BLANK)

    def _encode(self, piece: str, goes_on: bool, *, is_text: bool) -> list[int]:
        if not piece:
            return []
        if goes_on and self.puts_blank:
            # Whatever stands ahead takes the blank; a line's end is never a part of what follows.
            line, both = (self._tokens(text, is_text=is_text) for text in ("\n", f"\n{piece}"))
            if both[: len(line)] == line:
                return both[len(line) :]
        return self._tokens(piece, is_text=is_text)

    def _tokens(self, text: str, *, is_text: bool) -> list[int]:
        encode = self._tokenizer.encode
        tokens: list[int] = encode(text, add_special_tokens=False, split_special_tokens=is_text)
        return tokens
