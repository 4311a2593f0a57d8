"""Changes of bytes, of text with tokens, and of JSON values, drawn from a generator of random numbers."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

# Where sizes, counts and offsets overflow, or mean nothing.
BOUNDARIES = (
    *(0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536),
    *(2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 10**30),
)
# What may stand for a value of JSON or TOML.
_VALUES: tuple[Any, ...] = (
    *BOUNDARIES,
    *(None, True, False, 0.5, -1.5, 1e308, float("nan"), float("inf"), [], {}, [[]], {"": 0}, [None], [0, 1]),
    *("", " ", "\0", "x", "../x", "/", "\ud800", "\x1b[31m", "\u202e", "\n" * 9, "9" * 5000, "x" * 70_000),
)
_LONGEST_SPAN = 4096

_Step = Callable[[bytes, Random, Sequence[bytes]], bytes]


def mutated(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Return the bytes after one change or several.

    Args:
        others: what a piece may be taken from.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        data = rng.choice(_STEPS)(data, rng, others)
    return data


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + int(rng.paretovariate(0.5)) % _LONGEST_SPAN)


def _flip_bit(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    if not data:
        return b"\0"
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _overwrite(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    start, stop = _span(data, rng)
    fill = rng.choice((b"\0", b"\xff", rng.randbytes(1)))
    return data[:start] + fill * (stop - start) + data[stop:]


def _truncate(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    return data[: rng.randint(0, len(data))]


def _delete(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _repeat(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    start, stop = _span(data, rng)
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 2, 50)) + data[stop:]


def _swap(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    a, b, c, d = sorted(rng.randint(0, len(data)) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _splice(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _pack_number(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice(BOUNDARIES) % (1 << 8 * width)
    start = rng.randint(0, max(0, len(data) - width))
    return data[:start] + number.to_bytes(width, rng.choice(("little", "big"))) + data[start + width :]


_STEPS: tuple[_Step, ...] = (
    *(_flip_bit, _overwrite, _truncate, _delete, _repeat, _swap, _splice, _pack_number),
)


def replace_token(data: bytes, rng: Random, tokens: re.Pattern[bytes], choices: Sequence[bytes]) -> bytes:
    """Return the text with one of its tokens replaced by one of ``choices`` or by another of its tokens."""
    found = list(tokens.finditer(data))
    if not found:
        return data
    chosen = rng.choice(found)
    return data[: chosen.start()] + rng.choice((*choices, rng.choice(found)[0])) + data[chosen.end() :]


def mutated_value(value: Any, rng: Random) -> Any:
    """Return a value of JSON with some of what is in it removed, renamed, nested, or made another value."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _change_place(value, rng)
    return value


def _change_place(value: Any, rng: Random) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.02:
        return rng.choice(_VALUES) if rng.random() < 0.8 else _nested(value, rng)
    key = rng.choice([*value] if isinstance(value, dict) else range(len(value)))
    action = rng.random()
    if action < 0.15:
        del value[key]
    elif action < 0.2 and isinstance(value, dict):
        value[rng.choice(("", "x", "__class__", f"{key} "))] = value.pop(key)
    elif action < 0.3:
        value[key] = rng.choice(_VALUES)
    else:
        value[key] = _change_place(value[key], rng)
    return value


def _nested(value: Any, rng: Random) -> Any:
    for _ in range(rng.choice((1, 5, 500))):
        value = [value] if rng.random() < 0.5 else {"x": value}
    return value
