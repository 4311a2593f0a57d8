"""Leaves lines, areas and colours out of a PDF page before pypdf parses it.

They draw no text, but in a book with figures they are half of the operators, each of which becomes Python
objects. Regular expressions find them much sooner.
"""

from __future__ import annotations

import re
from typing import Any

from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject, StreamObject

# A string, with at most three levels of parentheses, or an escape, so that its parenthesis begins none.
_STRING = re.compile(rb"\\.|\((?:[^()\\]|\\.|\((?:[^()\\]|\\.|\([^()\\]*+\))*+\))*+\)", re.DOTALL)
_REPLACED = b"()"
# A hexadecimal string with spaces, in which a digit may look like an operator.
_SPACED_DIGITS = re.compile(rb"(?<!<)<[0-9A-Fa-f]*+\s")
_OPERATOR = rb"(?:[mlcvyhSsFnwJjMigGkK]|re|rg|RG|[fBbW]\*?)"
# Operators with their numbers: at most six, and without a bound a long row of them would take quadratic time.
_PATHS = re.compile(rb"\s(?:[-+.\d\s]{0,99}+" + _OPERATOR + rb"(?=\s))++")
# An operator without an effect. If something stands before the first number, it is still this one's operand.
_NOTHING = b" n"
_CALL = re.compile(rb"/([^\s/()<>\[\]{}%]++)\s++Do\b")


def leave_out_paths(page: Any) -> None:
    """Take the operators that only draw lines and areas, or set colours, out of a ``pypdf.PageObject``.

    The forms that the page draws lose theirs too. ``extract_text`` returns the same text, sooner.
    """
    contents = page.get_contents()
    if contents is None:
        return
    stream = DecodedStreamObject()
    stream.set_data(without_paths(contents.get_data()))
    page[NameObject("/Contents")] = stream
    left, seen = [(page, stream.get_data())], set[int]()
    while left:
        owner, data = left.pop()
        for form in _drawn_forms(owner, data):
            if id(form) not in seen:
                seen.add(id(form))
                data = without_paths(form.get_data())
                # pypdf decodes a form once and keeps the outcome.
                decoded = getattr(form, "decoded_self", None)
                (form if decoded is None else decoded).set_data(data)
                left.append((form, data))


def without_paths(data: bytes) -> bytes:
    """Return the data of a content stream without most of its operators that draw no text.

    Data in which these cannot be told from strings, comments or pictures is returned as it is.
    """
    strings = _STRING.findall(data)
    rest = _STRING.sub(_REPLACED, data)
    pairs = rest.count(_REPLACED)
    if rest.count(b"(") != pairs or rest.count(b")") != pairs or len(strings) != pairs:
        return data
    if b"BI" in rest or b"%" in rest or _SPACED_DIGITS.search(rest):
        return data
    pieces = _PATHS.sub(_NOTHING, rest).split(_REPLACED)
    return b"".join(part for pair in zip(pieces, [*strings, b""], strict=True) for part in pair)


def _drawn_forms(owner: Any, data: bytes) -> list[Any]:
    """The forms that a page or a form with this data draws itself."""
    resources = owner.get_inherited("/Resources", DictionaryObject()).get_object()
    objects = resources.get("/XObject", DictionaryObject()).get_object()
    called = {f"/{name.decode('latin-1')}" for name in _CALL.findall(data)}
    drawn = [objects[name] for name in called & objects.keys()]
    return [each for each in drawn if isinstance(each, StreamObject) and each.get("/Subtype") == "/Form"]
