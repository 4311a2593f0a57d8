"""Marks of turns that a chat template writes as plain text, such as ``[INST]`` or ``### Instruction:``.

They work like control tokens, but any text can contain them. They are found in the pieces that the template
puts around contents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Invisible on a screen; inserted into a mark it changes the tokens, so the text is no mark any more.
ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"
# Shorter marks, and marks without a letter, would match ordinary text.
_SHORTEST = 2


def plain_marks(
    turns: Sequence[str], around_system: Sequence[str], control_words: re.Pattern[str] | None
) -> re.Pattern[str] | None:
    """Return a pattern for the start of each mark in a text.

    Args:
        turns: the template's text between question and answer, and between answer and question.
        around_system: the template's text before and after a system text.
        control_words: the control tokens, which no text can imitate.

    Returns:
        None if a control token marks each change of turns.
    """
    if control_words is not None and all(control_words.search(piece) for piece in turns):
        return None
    lines: set[str] = set()
    for piece in (*turns, *around_system):
        texts = control_words.split(piece) if control_words is not None else [piece]
        lines.update(line.strip() for text in texts for line in text.splitlines())
    marks: list[str] = []
    # A line may hold several marks, one of which is a line of its own elsewhere.
    for line in sorted(lines, key=len):
        known = "|".join(map(re.escape, sorted(marks, key=len, reverse=True)))
        parts = re.split(known, line) if known else [line]
        marks += [mark for part in parts if _is_mark(mark := part.strip()) and mark not in marks]
    if not marks:
        return None
    return re.compile("|".join(map(_start_of, marks)))


def break_mark(start: re.Match[str]) -> str:
    """Return the first character of a mark with an invisible one after it, which breaks the mark."""
    return start[0] + ZERO_WIDTH_SPACE


def _is_mark(text: str) -> bool:
    return len(text) >= _SHORTEST and any(character.isalpha() for character in text)


def _start_of(mark: str) -> str:
    """A pattern for the first character of a mark; the number and kind of blanks may differ."""
    rest = r"\s+".join(map(re.escape, mark[1:].split(" ")))
    begin = r"(?<!\w)" if mark[0].isalnum() else ""
    return f"{begin}{re.escape(mark[0])}(?={rest})"
