"""What is wrong with a request, in the protocol's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

# Fields that clients send, and the only value of each that asks for nothing.
_ONLY = {
    "best_of": "1",
    "echo": "false",
    "frequency_penalty": "0",
    "n": "1",
    "presence_penalty": "0",
    "store": "false",
    "suffix": "null",
    "tools": "an empty list",
}
# Characters of a client's word that are repeated.
_MOST_WORD = 80


def invalid_field(error: RequestValidationError) -> tuple[str, str]:
    """Return the place of a request's fault, empty for the whole body, and the fault as a part of a sentence.

    A field that may be of several types has a fault for each of them; the one that lies deepest is of the
    type that the client has meant.
    """
    faults = [(_place(fault, error.body), fault) for fault in error.errors()]
    place, fault = max(faults, key=lambda each: len(each[0]))
    return ".".join(place), _words(fault, place)


def _place(fault: Mapping[str, Any], value: Any) -> list[str]:
    """Return the steps from a body to a fault, without those that name types which its library has tried."""
    place = list[str]()
    _, *steps = fault["loc"]
    for number, step in enumerate(steps, 1):
        is_there = isinstance(value, Mapping) and step in value
        if is_there or (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            value = value[step]
        elif fault["type"] != "missing" or number < len(steps):
            continue
        place.append(str(step))
    return place


def _words(fault: Mapping[str, Any], place: Sequence[str]) -> str:
    if fault["type"] == "extra_forbidden":
        return "This field is not supported"
    if place and place[0] in _ONLY and not fault["type"].endswith("_type"):
        return f"This is not supported, only {_ONLY[place[0]]} is"
    if fault["type"] == "union_tag_invalid":
        given, known = fault["ctx"]["tag"], fault["ctx"]["expected_tags"]
        return f"The type '{given[:_MOST_WORD]}' is not supported, only {known} are"
    if fault["type"] == "union_tag_not_found":
        return "Field 'type' required"
    return str(fault["msg"])
