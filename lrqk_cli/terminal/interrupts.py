"""Ctrl-C as a flag that is checked between two items, so that state stays consistent."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


class LeaveAtOnce(KeyboardInterrupt):
    """Ctrl-C was pressed again before the first one took effect."""


def in_main_thread() -> bool:
    """Whether Python delivers signals to this thread."""
    return threading.current_thread() is threading.main_thread()


class Interrupts:
    """Within this context, the first SIGINT sets a flag and the second raises ``LeaveAtOnce``.

    Calling the object returns whether the flag is set. Python delivers signals to the main thread only; in
    other threads the context does nothing.

    Within ``put_off`` no SIGINT raises an exception at any other place than those that the other contexts
    allow: one that comes between two of them waits for the next.

    Args:
        on_first: the signal handler calls it when it sets the flag.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        self._on_first = on_first
        self._interrupted = False
        self._waits = False
        # What a SIGINT does now; None if this object has not taken it over.
        self._act: Callable[[], None] | None = None
        self._entered = ExitStack()

    def __call__(self) -> bool:
        """Whether there was a SIGINT."""
        return self._interrupted

    def __enter__(self) -> Interrupts:
        self._interrupted = False
        self._entered.enter_context(self._acting(self._set_flag))
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def put_off(self) -> AbstractContextManager[None]:
        """Within this context a SIGINT waits until one of the other contexts is entered."""
        return self._acting(self._wait)

    def raised(self) -> AbstractContextManager[None]:
        """Within this context a SIGINT raises ``KeyboardInterrupt``; the next one waits."""
        return self._acting(self._raise)

    @contextmanager
    def reading(self, clear: Callable[[], bool]) -> Iterator[None]:
        """Within this context a line is typed, and one SIGINT that has waited has nothing to stop any more.

        Args:
            clear: the signal handler calls it; it clears the line, or returns false if this was entered, and
                then the SIGINT waits.
        """
        self._waits = False
        with self._acting(lambda: None if clear() else self._wait()):
            yield

    @contextmanager
    def _acting(self, act: Callable[[], None]) -> Iterator[None]:
        before, self._act = self._act, act
        takes_over = before is None and in_main_thread()
        previous = signal.signal(signal.SIGINT, self._handle) if takes_over else None
        try:
            if self._waits and act != self._wait:
                self._waits = False
                act()
            yield
        finally:
            self._act = before
            if takes_over:
                signal.signal(signal.SIGINT, previous)

    def _handle(self, *_: object) -> None:
        if self._act is not None:
            self._act()

    def _wait(self) -> None:
        self._waits = True

    def _raise(self) -> None:
        # Another one must not end what puts things in order after this one.
        self._act = self._wait
        raise KeyboardInterrupt

    def _set_flag(self) -> None:
        if self._interrupted:
            raise LeaveAtOnce
        self._interrupted = True
        self._on_first()
