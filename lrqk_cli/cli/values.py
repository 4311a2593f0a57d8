"""Read numbers as people write them: ``64k`` tokens, ``12GiB`` bytes."""

from __future__ import annotations

import math
import re

from lrqk_cli.config import THINK_WORDS, AlsPenalties
from lrqk_cli.errors import UsageError

_TOKEN_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20}
_BYTE_UNITS = {
    "": 1,
    "b": 1,
    **{unit: 1 << shift for shift, unit in ((10, "k"), (20, "m"), (30, "g"), (40, "t"))},
    **{unit: 1 << shift for shift, unit in ((10, "kib"), (20, "mib"), (30, "gib"), (40, "tib"))},
    **{unit: 10**power for power, unit in ((3, "kb"), (6, "mb"), (9, "gb"), (12, "tb"))},
}
# A number of bytes below this without a unit is refused as a mistake.
_LEAST_BARE_BYTES = 1024
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:[._][0-9]+)*)\s*([a-z]*)\s*", re.IGNORECASE)


def _parse(text: object, units: dict[str, int], what: str, hint: str) -> int:
    match = _NUMBER_AND_UNIT.fullmatch(str(text))
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"'{text}' is not {what}.", hint)
    try:
        size = round(float(match[1].replace("_", "")) * unit)
    except (ValueError, OverflowError):
        raise UsageError(f"'{text}' is not {what}.", hint) from None
    if size < 1:
        raise UsageError(f"'{text}' is not {what}: it must be at least 1.", hint)
    return size


def parse_integer(text: str | int) -> int:
    """Read a whole number.

    Raises:
        UsageError: the text is not one.
    """
    try:
        return int(str(text))
    except ValueError:
        raise UsageError(f"'{text}' is not a whole number.", "Write it in digits, such as 32.") from None


def parse_number(text: str | float) -> float:
    """Read a number.

    Raises:
        UsageError: the text is not a finite one.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"'{text}' is not a number.", "Write it in digits, such as 0.7.")
    return number


def parse_penalties(text: str | AlsPenalties) -> AlsPenalties:
    """Read the four weights of ``AlsPenalties``, in its order: ``1,1,0.5,2``.

    Raises:
        UsageError: the text is not four numbers of at least 0.
    """
    if isinstance(text, AlsPenalties):
        return text
    weights = [parse_number(part) for part in str(text).split(",")]
    if len(weights) != 4:
        raise UsageError(f"'{text}' is not four weights.", "Write them as 1,1,1,1.")
    return AlsPenalties(*weights)


def parse_names(text: str | None) -> tuple[str, ...]:
    """Read names separated by commas, without repetitions; None gives no names."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(","))) if text else ()


def parse_tokens(text: str | int) -> int:
    """Read a number of tokens: ``65536``, ``64k`` (65,536), ``1m`` (1,048,576).

    Raises:
        UsageError: the text is not such a number, or it is below 1.
    """
    return _parse(text, _TOKEN_UNITS, "a number of tokens", "Write it as 65536, 64k or 1m.")


def parse_think(text: str | int) -> int | None:
    """Read ``on``, ``off`` or a number of tokens, see ``GenerationConfig.think``.

    Raises:
        UsageError: the text is none of these.
    """
    word = str(text).strip().lower()
    if word in THINK_WORDS or word == "0":
        return THINK_WORDS.get(word, 0)
    try:
        return parse_tokens(text)
    except UsageError:
        hint = "Write on, off, or the most tokens of reasoning, such as 2k."
        raise UsageError(f"'{text}' is not on, off or a number of tokens.", hint) from None


def parse_bytes(text: str | int) -> int:
    """Read a number of bytes: ``12GiB`` and ``12G`` are binary (12 x 2^30), ``12GB`` is decimal (12 x 10^9).

    Raises:
        UsageError: the text is not such a number, it is below 1, or it is below 1,024 and has no unit.
    """
    size = _parse(text, _BYTE_UNITS, "a number of bytes", "Write it as 12GiB, 12GB or 12G.")
    if size < _LEAST_BARE_BYTES and not str(text).strip()[-1].isalpha():
        bare = str(text).strip()
        raise UsageError(f"'{bare}' without a unit means {bare} bytes.", f"Did you mean {bare}GiB?")
    return size
