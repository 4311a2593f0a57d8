"""Questions about one document whose answers copy a passage, copy a table, or are free.

The answer to a question that asks for a copy begins with given words, because small models seldom find the
place: they would be measured on loops of their own words. The question does not repeat these words, which a
model would copy with what follows them there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lrqk_cli.bench.qa.prompts import INTRODUCTION, asked_tokens
from lrqk_cli.models.prompt import ChatPrompt

Kind = Literal["quote", "table", "free"]

_TITLE = "Receipts of the harbour office"
_TABLE_BEGIN = f"{_TITLE}\n\n| name |"
_NAMES = ("Adler", "Brandt", "Carey", "Duval", "Ekman", "Ferro", "Gray", "Holm", "Iverson", "Jonas")
_GOODS = ("tar", "linen", "barley", "timber", "salt", "wool")
_TABLE_DEPTH = 0.4
_QUOTE_DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
# Words by which a passage is found, and the fewest that it has in all.
_QUOTED_WORDS, _PASSAGE_WORDS = 20, 80
_QUOTE = "Quote a long passage of the text, word for word and without a comment."
_FREE = (
    "Summarise the text in your own words.",
    "What is the text about, and for whom may it have been written?",
    "Which part of the text would you leave out, and why?",
)


@dataclass(frozen=True, slots=True)
class LookupQuestion:
    """A question, and how its answer relates to the text.

    Attributes:
        opening: words that the answer is given to begin with, from the text; empty for a free answer.
        source: how the text goes on after them.
    """

    kind: Kind
    text: str
    opening: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class LookupPrompt:
    """The tokens of a document with a table in it, and its questions.

    Attributes:
        head: up to the end of the document.
        questions: each with the tokens that follow ``head``.
    """

    head: list[int]
    questions: list[tuple[LookupQuestion, list[int]]]


def lookup_prompt(text: str, seed: int, prompt: ChatPrompt, room: int) -> LookupPrompt | None:
    """Return the prompt for a text, of which as much is kept as fits; None if too little fits.

    Args:
        seed: of the numbers in the table.
        room: tokens for the document and the longest question.
    """
    words = text.split(" ")
    while len(words) >= 2 * _PASSAGE_WORDS:
        document = _with_table(words, seed)
        opening = prompt.opening()
        head = [*opening, *prompt.text(INTRODUCTION + document, opening)]
        asked = [
            (question, [*asked_tokens(question.text, prompt), *prompt.text(question.opening)])
            for question in _questions(words, document)
        ]
        spare = room - len(head) - max(len(tokens) for _, tokens in asked)
        if spare >= 0:
            return LookupPrompt(head, asked)
        # Tokens are spread evenly enough that a few rounds suffice.
        words = words[: min(len(words) - 1, int(len(words) * (1 + spare / len(head))))]
    return None


def _with_table(words: list[str], seed: int) -> str:
    place = _table_place(words)
    return " ".join(words[:place]) + f"\n\n{_table(seed)}\n\n" + " ".join(words[place:])


def _table_place(words: list[str]) -> int:
    return int(_TABLE_DEPTH * len(words))


def _table(seed: int) -> str:
    choose = random.Random(seed)
    lines = [_TABLE_BEGIN + " goods | barrels | shillings |", "|---|---|---|---|"]
    for name in _NAMES:
        figures = f"{choose.randrange(10, 990)} | {choose.randrange(1000, 99000):,}"
        lines.append(f"| {name} | {choose.choice(_GOODS)} | {figures} |")
    return "\n".join(lines)


def _questions(words: list[str], document: str) -> list[LookupQuestion]:
    found = list[LookupQuestion]()
    for depth in _QUOTE_DEPTHS:
        begin = _passage(words, int(depth * (len(words) - _PASSAGE_WORDS)))
        found.append(_copied("quote", _QUOTE, begin, document))
    found.append(_copied("table", f"Copy the table “{_TITLE}” completely.", _TABLE_BEGIN, document))
    return found + [LookupQuestion("free", text) for text in _FREE]


def _passage(words: list[str], first: int) -> str:
    """Return the beginning of the first passage from a word on that neither gaps nor the table break."""
    table = _table_place(words)
    starts = (
        start
        for start in range(first, len(words) - _PASSAGE_WORDS)
        if all(words[start : start + _PASSAGE_WORDS]) and not start < table < start + _PASSAGE_WORDS
    )
    first = next(starts, first)
    return " ".join(words[first : first + _QUOTED_WORDS])


def _copied(kind: Kind, text: str, begin: str, document: str) -> LookupQuestion:
    return LookupQuestion(kind, text, begin, document.partition(begin)[2])
