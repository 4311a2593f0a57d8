"""Cleans extracted text; every reader uses it."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_LIGATURES = {
    "ﬀ": "ff",
    "ﬁ": "fi",
    "ﬂ": "fl",
    "ﬃ": "ffi",
    "ﬄ": "ffl",
    "ﬅ": "st",
    "ﬆ": "st",
}
_LINE_BREAK = re.compile(r"\r\n?|[\f\v\x85\u2028\u2029]")
# No-break, thin, wide and other typographic spaces; newlines and tabs stay.
_SPACE = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Control characters, byte order marks, word joiners and zero-width spaces.
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SOFT_HYPHEN = re.compile(r"\u00ad(?:[ \t]*\n)?")
_BLANK_LINES = re.compile(r"\n{3,}")
_TRANSLATION = str.maketrans(_LIGATURES)
# UAX #15, section 13: no language needs more marks on one letter.
_MOST_MARKS = 30
_JOINER = "\N{COMBINING GRAPHEME JOINER}"
# Runs that may hold more marks: marks begin at U+0300, and a character decomposes into two at most.
_MARKS = re.compile(r"(?s:.)[\u0300-\U0010ffff]{14,}")


def normalise(text: str) -> str:
    """NFC, ligatures spelt out, plain spaces and line ends, at most one blank line in a row.

    NFKC is not used, because it would turn x² into x2. Lone surrogates, which no tokenizer takes, become
    U+FFFD. The time is linear in the length of any text.
    """
    text = whole_characters(text)
    text = _LINE_BREAK.sub("\n", text)
    text = _SPACE.sub(" ", text)
    text = _INVISIBLE.sub("", text)
    text = _SOFT_HYPHEN.sub("", text)
    text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    text = _MARKS.sub(_bounded_marks, text.translate(_TRANSLATION))
    text = unicodedata.normalize("NFC", text)
    return _BLANK_LINES.sub("\n\n", text).strip("\n").rstrip()


def whole_characters(text: str) -> str:
    """Replace surrogate pairs by their characters, and lone surrogates by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown_name(name: object) -> str:
    """A file's name as text; undecodable bytes and control characters become U+FFFD."""
    return _CONTROL.sub("\ufffd", whole_characters(str(name)))


def _bounded_marks(match: re.Match[str]) -> str:
    """Split long runs of marks with joiners, because sorting a run takes quadratic time.

    Counts the marks of the decomposed text (Unicode's Stream-Safe Text Format).
    """
    parts, marks = [], 0
    for character in match[0]:
        count, is_mark = _mark_count(character)
        if is_mark and marks + count > _MOST_MARKS:
            parts.append(_JOINER)
            marks = 0
        marks = marks + count if is_mark else count
        parts.append(character)
    return "".join(parts)


@cache
def _mark_count(character: str) -> tuple[int, bool]:
    """The number of marks in a character's decomposition, and whether it consists of marks only."""
    parts = unicodedata.normalize("NFD", character)
    marks = sum(1 for part in parts if unicodedata.combining(part))
    return marks, marks == len(parts)
