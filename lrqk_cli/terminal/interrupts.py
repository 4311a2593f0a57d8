"""Ctrl-C as a flag that is checked between two items, so that state stays consistent."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class LeaveAtOnce(KeyboardInterrupt):
    """Ctrl-C was pressed again before the first one took effect."""


def in_main_thread() -> bool:
    """Whether Python delivers signals to this thread."""
    return threading.current_thread() is threading.main_thread()


class Interrupts:
    """Within this context, the first SIGINT sets a flag and the second raises ``LeaveAtOnce``.

    Calling the object returns whether the flag is set. Python delivers signals to the main thread only; in
    other threads the context does nothing.

    Args:
        on_first: the signal handler calls it when it sets the flag.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        self._on_first = on_first
        self._interrupted = False
        self._previous: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None

    def __call__(self) -> bool:
        """Whether there was a SIGINT."""
        return self._interrupted

    def __enter__(self) -> Interrupts:
        self._interrupted = False
        if in_main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._interrupted:
            raise LeaveAtOnce
        self._interrupted = True
        self._on_first()
