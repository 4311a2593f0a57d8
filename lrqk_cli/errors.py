"""Every failure that a user can meet: one plain sentence, one hint, one exit code."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class LrqkError(Exception):
    """Base of all expected failures.

    Args:
        message: one sentence that names the request and its fault.
        hint: one sentence that names what to try instead; may be empty.

    Both name a setting as Python does, between backticks; where they are shown it has the name that it has
    there, see ``naming``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LrqkError):
    """A flag, variable or setting has no meaning, or two contradict each other."""

    exit_code = 2


class DocumentError(LrqkError):
    """A document cannot be read."""

    exit_code = 3


class ModelError(LrqkError):
    """A model cannot be found, fetched, loaded or supported."""

    exit_code = 4


class UnsupportedModelError(ModelError):
    """The model's config asks for a feature that the engine does not implement; the message names it."""


class OutOfMemoryError(LrqkError):
    """The model and the context do not fit in the available memory."""

    exit_code = 5


class HostMemoryError(OutOfMemoryError):
    """It is the memory of this machine that does not suffice, not that of a GPU."""


class PinningError(HostMemoryError):
    """Host memory is there, and cannot be pinned, so that a GPU's kernels cannot read it."""


class ContextLengthError(LrqkError):
    """The text is longer than the context."""

    exit_code = 6


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", *, is_long: bool = False) -> str:
    """Return the hint for a misspelt name: the known name closest to it.

    Args:
        otherwise: the hint if no name is close; by default one that lists all known names.
        is_long: for names that people shorten, such as those of models: up to two names, at less similarity.
    """
    names = list(known)
    count, cutoff = (2, 0.5) if is_long else (1, 0.6)
    close = get_close_matches(name.lower(), names, count, cutoff)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return otherwise or f"There are {', '.join(names)}."
