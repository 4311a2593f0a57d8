"""Runs what a request needs before it waits for its turn: reading its documents, checking its schema."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from fastapi.concurrency import run_in_threadpool

# Of one owner at a time.
_MOST = 4

_Result = TypeVar("_Result")


class Preparations:
    """Prepares requests in threads, some of each owner at a time.

    A preparation may take as long as a document may be read. So no owner has all threads of the server.
    """

    def __init__(self) -> None:
        self._places = defaultdict[str, asyncio.Semaphore](partial(asyncio.Semaphore, _MOST))

    async def run(self, owner: str, prepare: Callable[[], _Result]) -> _Result:
        """Return what ``prepare`` returns, once there is a place for its owner."""
        async with self._places[owner]:
            return await run_in_threadpool(prepare)
