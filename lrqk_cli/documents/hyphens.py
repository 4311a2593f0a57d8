"""Joins words that were split at the ends of lines, where the document has the whole word elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

_HYPHENS = ("-", "\u2010")
_WORD = re.compile(r"\w+")
_COMPOUND = re.compile(r"[\w\u2010-]+")


def join_words(texts: Sequence[str]) -> list[str]:
    """Join split words in the pages of a document.

    A word is joined if the document has the whole word, and more often than the word with a hyphen within a
    line. The next line must go on with a small letter. Other hyphens at line ends stay, because they may
    belong to the word. The time is linear in the length of any text.

    Args:
        texts: of the pages; a word is not joined across two of them.
    """
    splits = [list(_splits(text)) for text in texts]
    wanted = {(left + right).casefold() for page in splits for _, left, right in page}
    if not wanted:
        return [*texts]
    words, compounds = Counter[str](), Counter[str]()
    for word, count in _counted(_WORD, texts):
        if word in wanted:
            words[word] += count
    for found, count in _counted(_COMPOUND, texts):
        compound = found.replace("\u2010", "-").replace("-", "", 1)
        if compound in wanted and compound != found:
            compounds[compound] += count
    joined = []
    for text, page in zip(texts, splits, strict=True):
        lines = text.split("\n")
        for number, left, right in page:
            whole = (left + right).casefold()
            # The next line may have been joined to one word with what comes after it.
            if words[whole] > compounds[whole] and lines[number + 1].startswith(right):
                lines[number] = lines[number][:-1] + right
                lines[number + 1] = lines[number + 1][len(right) :].removeprefix(" ")
        joined.append("\n".join(lines))
    return joined


def _splits(text: str) -> Iterable[tuple[int, str, str]]:
    """Yield the number of each line that ends in a split word, and its two parts."""
    for number, (line, following) in enumerate(pairwise(text.split("\n"))):
        if not line.endswith(_HYPHENS) or not following[:1].islower():
            continue
        first = len(line) - 1
        while first and line[first - 1].isalpha():
            first -= 1
        right = _WORD.match(following)
        if first < len(line) - 1 and right is not None:
            yield number, line[first:-1], right[0]


def _counted(pattern: re.Pattern[str], texts: Iterable[str]) -> Iterable[tuple[str, int]]:
    """Yield the words of each text, and how often it has them."""
    for text in texts:
        for found, count in Counter(match[0] for match in pattern.finditer(text)).items():
            yield found.casefold(), count
