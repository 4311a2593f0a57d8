"""Questions about one document whose answers copy a passage, copy a table, or are free."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lrqk_cli.models.prompt import ChatPrompt

Kind = Literal["quote", "table", "free"]

_INTRODUCTION = "Read this text. A question about it follows.\n\n"
_TITLE = "Receipts of the harbour office"
_NAMES = ("Adler", "Brandt", "Carey", "Duval", "Ekman", "Ferro", "Gray", "Holm", "Iverson", "Jonas")
_GOODS = ("tar", "linen", "barley", "timber", "salt", "wool")
_TABLE_DEPTH = 0.4
_QUOTE_DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
# Words by which a passage is found, and the fewest that must follow.
_QUOTED_WORDS, _PASSAGE_WORDS = 10, 60
_FREE = (
    "Summarise the text in your own words.",
    "What is the text about, and for whom may it have been written?",
    "Which part of the text would you leave out, and why?",
)


@dataclass(frozen=True, slots=True)
class LookupQuestion:
    """A question, and how its answer relates to the text."""

    kind: Kind
    text: str


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
        head = [*prompt.opening(), *prompt.text(_INTRODUCTION + document)]
        asked = [(question, _tokens(question, prompt)) for question in _questions(words)]
        spare = room - len(head) - max(len(tokens) for _, tokens in asked)
        if spare >= 0:
            return LookupPrompt(head, asked)
        # Tokens are spread evenly enough that a few rounds suffice.
        words = words[: min(len(words) - 1, int(len(words) * (1 + spare / len(head))))]
    return None


def _tokens(question: LookupQuestion, prompt: ChatPrompt) -> list[int]:
    return [*prompt.text(f"\n\nQuestion: {question.text}"), *prompt.closing()]


def _with_table(words: list[str], seed: int) -> str:
    place = int(_TABLE_DEPTH * len(words))
    return " ".join(words[:place]) + f"\n\n{_table(seed)}\n\n" + " ".join(words[place:])


def _table(seed: int) -> str:
    choose = random.Random(seed)
    lines = [_TITLE, "", "| name | goods | barrels | shillings |", "|---|---|---|---|"]
    for name in _NAMES:
        figures = f"{choose.randrange(10, 990)} | {choose.randrange(1000, 99000):,}"
        lines.append(f"| {name} | {choose.choice(_GOODS)} | {figures} |")
    return "\n".join(lines)


def _questions(words: list[str]) -> list[LookupQuestion]:
    found = list[LookupQuestion]()
    for depth in _QUOTE_DEPTHS:
        first = int(depth * (len(words) - _PASSAGE_WORDS))
        begin = " ".join(words[first : first + _QUOTED_WORDS])
        found.append(
            LookupQuestion(
                "quote", f"Repeat the passage of the text that begins with “{begin}”, word for word."
            )
        )
    found.append(LookupQuestion("table", f"Copy the table “{_TITLE}” completely."))
    return found + [LookupQuestion("free", text) for text in _FREE]
