"""Sequences of tokens, or of characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item", int, str)


def shared_length(left: Sequence[_Item], right: Sequence[_Item]) -> int:
    """Return how many items at the beginning are the same."""
    for place, (own, other) in enumerate(zip(left, right, strict=False)):
        if own != other:
            return place
    return min(len(left), len(right))
