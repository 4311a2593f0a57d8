"""Collect results one by one, so that a run that ends early keeps its results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

_Result = TypeVar("_Result")


def collect(results: Iterable[_Result]) -> tuple[list[_Result], BaseException | None]:
    """Return all results, or those so far and the exception that ended the run: Ctrl-C or a failure.

    Raises:
        BaseException: the run ended before its first result.
    """
    found: list[_Result] = []
    try:
        found.extend(results)
    except (Exception, KeyboardInterrupt) as error:
        if not found:
            raise
        return found, error
    return found, None
