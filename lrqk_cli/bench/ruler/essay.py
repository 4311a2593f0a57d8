"""A long text as a haystack: passages of any length, with needles between the sentences."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice

from lrqk_cli.bench.text import sentences
from lrqk_cli.errors import DocumentError

_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*$")
_MADE_UP_SENTENCES = 20_000


class Essay:
    """A text that repeats without end.

    Args:
        text: its line breaks are ignored.

    Attributes:
        starts: the word numbers at which sentences begin.

    Raises:
        DocumentError: the text has no words.
    """

    def __init__(self, text: str) -> None:
        self._words = text.split()
        if not self._words:
            raise DocumentError("The haystack has no text in it.", "Give --haystack another file.")
        ends = [number for number, word in enumerate(self._words, 1) if _SENTENCE_END.search(word)]
        self.starts = [0, *(end for end in ends if end < len(self._words))]

    @classmethod
    def made_up(cls) -> Essay:
        """Return a text of made-up sentences, the same in every run."""
        return cls("".join(islice(sentences(seed=0), _MADE_UP_SENTENCES)))

    def passage(self, start: int, length: int) -> list[str]:
        """Return ``length`` words from word ``start`` on."""
        repeats = -(-(start + length) // len(self._words))
        whole = self._words if repeats == 1 else self._words * repeats
        return whole[start : start + length]


def insert_between_sentences(words: Sequence[str], needles: Sequence[str], depths: Sequence[float]) -> str:
    """Return the passage with each needle at the end of the sentence in which its depth in [0, 1] lies."""
    ends = [0, *(number for number, word in enumerate(words, 1) if _SENTENCE_END.search(word))]
    pieces: list[str] = []
    last = 0
    for depth, needle in sorted(zip(depths, needles, strict=True)):
        wanted = int(len(words) * depth)
        at = bisect_left(ends, wanted)
        cut = ends[at] if at < len(ends) else wanted
        pieces += [*words[last:cut], needle]
        last = cut
    return " ".join([*pieces, *words[last:]])
