"""Functions that fail once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any


def failing_at(
    call: int, function: Callable[..., Any], failure: BaseException | type[BaseException] = KeyboardInterrupt
) -> Callable[..., Any]:
    """Return a function, or method, that does the same but fails at one call, counted from 1."""
    calls = count(1)

    def function_or_failure(*arguments: Any) -> Any:
        if next(calls) == call:
            raise failure
        return function(*arguments)

    return function_or_failure
