"""Waits for a server in a thread of its own, so that Ctrl-C finds nothing half done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from threading import Thread
from typing import Any, TypeVar

# Seconds after which it is looked again whether the user has stopped.
_POLL_S = 0.05
# Seconds in which connections are closed; the search for the address of a host cannot be ended.
_CLOSE_S = 1.0

_Result = TypeVar("_Result")


class LoopThread:
    """Within this context an event loop runs in another thread; its end cancels what still runs there.

    Ctrl-C is raised in the main thread, between any two steps of what it runs. An event loop that it breaks
    off there may lose a task, or stop too early when it runs again.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # What fails while a connection is closed changes nothing.
        self._loop.set_exception_handler(lambda *_: None)
        self._left = asyncio.Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._left.set)
        self._thread.join(_CLOSE_S)

    def result(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the result of a coroutine, or raise its failure."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        # On Windows, Ctrl-C does not end a wait without a limit.
        while not wait({future}, _POLL_S).done:
            pass
        return future.result()

    def result_unless(
        self, cancelled: Callable[[], bool], work: Coroutine[Any, Any, _Result]
    ) -> _Result | None:
        """See ``result``; None if ``cancelled``, and what is on its way has had a moment to come."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        is_stopped = False
        while not wait({future}, _POLL_S).done:
            if is_stopped:
                return None
            is_stopped = cancelled()
        return future.result()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._left.wait())
