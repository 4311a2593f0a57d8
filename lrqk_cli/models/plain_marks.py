"""Marks of turns that a chat template writes as plain text, such as ``[INST]`` or ``### Instruction:``.

To the model they are what control tokens are to others, but any text can contain them. They are taken from
the template itself: the pieces that it puts around contents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Takes no room on a screen, and is a token of its own or part of another: what is left is no mark.
ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"
# Shorter ones, and such without a letter, would be found all over ordinary text.
_SHORTEST = 2


def plain_marks(
    turns: Sequence[str], around_system: Sequence[str], control_words: re.Pattern[str] | None
) -> re.Pattern[str] | None:
    """Return a pattern for the start of each mark in a text.

    Args:
        turns: what the template writes between question and answer, and between answer and question.
        around_system: what it writes before and after a system text.
        control_words: the control tokens, which no text can imitate.

    Returns:
        None where control tokens stand at each change of turns.
    """
    if control_words is not None and all(control_words.search(piece) for piece in turns):
        return None
    lines: set[str] = set()
    for piece in (*turns, *around_system):
        texts = control_words.split(piece) if control_words is not None else [piece]
        lines.update(line.strip() for text in texts for line in text.splitlines())
    marks: list[str] = []
    # A line may hold several, one of which stands alone elsewhere.
    for line in sorted(lines, key=len):
        known = "|".join(map(re.escape, sorted(marks, key=len, reverse=True)))
        parts = re.split(known, line) if known else [line]
        marks += [mark for part in parts if _is_mark(mark := part.strip()) and mark not in marks]
    if not marks:
        return None
    return re.compile("|".join(map(_start_of, marks)))


def break_mark(start: re.Match[str]) -> str:
    """Return the first character of a mark and an invisible one, so that the mark is none."""
    return start[0] + ZERO_WIDTH_SPACE


def _is_mark(text: str) -> bool:
    return len(text) >= _SHORTEST and any(character.isalpha() for character in text)


def _start_of(mark: str) -> str:
    """A pattern for the first character of a mark, whose blanks may be others in number and kind."""
    rest = r"\s+".join(map(re.escape, mark[1:].split(" ")))
    begin = r"(?<!\w)" if mark[0].isalnum() else ""
    return f"{begin}{re.escape(mark[0])}(?={rest})"
