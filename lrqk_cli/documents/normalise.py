"""Clean text: what all readers do to what they found."""

from __future__ import annotations

import re
import unicodedata

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
# Control characters, the marks of byte order and of places to break a word.
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")
_SOFT_HYPHEN = re.compile(r"\u00ad(?:[ \t]*\n)?")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
_TRANSLATION = str.maketrans(_LIGATURES)


def normalise(text: str) -> str:
    """NFC, ligatures spelt out, plain spaces and line ends, at most one blank line in a row.

    Compatibility forms (NFKC) are left alone: they would turn x² into x2. Half surrogates, which no
    tokenizer takes, become U+FFFD.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = _LINE_BREAK.sub("\n", text)
    text = _SPACE.sub(" ", text)
    text = _INVISIBLE.sub("", text)
    text = _SOFT_HYPHEN.sub("", text)
    text = _TRAILING.sub("", text)
    text = unicodedata.normalize("NFC", text.translate(_TRANSLATION))
    return _BLANK_LINES.sub("\n\n", text).strip("\n").rstrip()
