"""Makes text safe to print: no name or answer can control the terminal or hide text."""

from __future__ import annotations

import json
import re

# Control characters except tab and newline; characters that change the direction of text; lone surrogates,
# which stand for undecodable bytes of file names.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text with control characters spelled out, such as ``\x1b``.

    A carriage return before a newline is left out.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_spelled, text.replace("\r\n", "\n"))


def to_json(value: object, indent: int | None = None) -> str:
    r"""Return JSON without ASCII escapes, except for control characters, such as ``\u001b``."""
    return _UNSAFE.sub(_escaped, json.dumps(value, ensure_ascii=False, indent=indent))


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
