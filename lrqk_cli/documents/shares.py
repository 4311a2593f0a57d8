"""Reads the pages of an open file in several processes, which take them in turn.

The processes are forks of the one that has opened the file, so they need neither its password nor to parse it
again. Where the system cannot fork, one process reads all pages.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from lrqk_cli.limited_process import end_with
from lrqk_cli.memory.cpus import usable_cpus

# A fork takes some milliseconds, a page some hundredths of a second.
_LEAST_PAGES = 4
_MOST_PROCESSES = 8
# Pages are taken in runs, of one page in all but the longest files: one with drawings takes ten times as long
# as others. Numbers of two bytes for all of them have room in any pipe (4 KiB), before someone reads it.
_MOST_RUNS = 2048
_NUMBER_BYTES = 2
_EXIT_NO_MEMORY = 3
_CHUNK = 1 << 16

ReadPage = Callable[[int], str | None]
OnPage = Callable[[int, int], None]


class ShareLostError(Exception):
    """A process ended before it had read its pages."""


def share_count(pages: int, least_pages: int = _LEAST_PAGES, most: int = _MOST_PROCESSES) -> int:
    """Return the processes among which some pages are shared out; 1 where the system cannot fork well.

    Args:
        least_pages: that are worth a process.
        most: processes at most; of these at most eight are taken.
    """
    # The libraries of macOS may crash in a fork.
    if not hasattr(os, "fork") or sys.platform == "darwin":
        return 1
    return max(1, min(usable_cpus(), most, _MOST_PROCESSES, pages // least_pages))


def read_pages(
    read: ReadPage, numbers: Sequence[int], on_page: OnPage, count: int | None = None
) -> list[str | None]:
    """Return the text of each page, in the order of ``numbers``.

    Args:
        read: returns the text of a page; None if there is none to be had.
        on_page: called with the pages done, and their number.
        count: of the processes; by default that of ``share_count``.

    Raises:
        MemoryError: a process has no memory left.
        ShareLostError: a process crashed.
    """
    count = share_count(len(numbers)) if count is None else count
    found = _read_shares(read, numbers, count, on_page) if count > 1 else None
    if found is None:
        found = []
        for done, number in enumerate(numbers):
            on_page(done, len(numbers))
            found.append(read(number))
    on_page(len(numbers), len(numbers))
    return found


def _read_shares(
    read: ReadPage, numbers: Sequence[int], count: int, on_page: OnPage
) -> list[str | None] | None:
    """Return the text of each page; None if no process can begin."""
    texts: dict[int, str | None] = {}
    runs, untaken = _runs(len(numbers))
    processes, lines = dict[int, int](), dict[int, bytes]()
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            try:
                output, process = _begin(read, numbers, runs, untaken)
            except OSError:  # such as too many processes; those that have begun read all pages
                break
            processes[output], lines[output] = process, b""
            selector.register(output, selectors.EVENT_READ)
        os.close(untaken)
        if not processes:
            return None
        on_page(0, len(numbers))
        while processes:
            for key, _ in selector.select():
                output = key.fd
                chunk = os.read(output, _CHUNK)
                *whole, lines[output] = (lines[output] + chunk).split(b"\n")
                for line in whole:
                    place, text = json.loads(line)
                    texts[place] = text
                    on_page(min(len(texts), len(numbers) - 1), len(numbers))
                if not chunk:
                    selector.unregister(output)
                    os.close(output)
                    _await(processes.pop(output))
    return [texts[place] for place in range(len(numbers))]


def _runs(pages: int) -> tuple[list[range], int]:
    """Return runs of neighbouring places, and a pipe from which each process reads the next one's number."""
    length = -(-pages // _MOST_RUNS)
    runs = [range(first, min(first + length, pages)) for first in range(0, pages, length)]
    untaken, own = os.pipe()
    os.write(own, b"".join(number.to_bytes(_NUMBER_BYTES) for number in range(len(runs))))
    os.close(own)
    return runs, untaken


def _begin(read: ReadPage, numbers: Sequence[int], runs: Sequence[range], untaken: int) -> tuple[int, int]:
    """Fork a process that reads runs of pages; return where its results come, and the process."""
    output, own = os.pipe()
    parent = os.getpid()
    try:
        with warnings.catch_warnings():
            # Of the other threads, which only wait for messages, the fork needs nothing.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
    except OSError:
        os.close(output)
        os.close(own)
        raise
    if not process:
        _read_runs(read, numbers, runs, untaken, own, parent)
    os.close(own)
    return output, process


def _read_runs(
    read: ReadPage, numbers: Sequence[int], runs: Sequence[range], untaken: int, output: int, parent: int
) -> NoReturn:
    code = 1
    try:
        end_with(parent)  # a page may take for ever
        with os.fdopen(output, "wb") as results:
            while number := os.read(untaken, _NUMBER_BYTES):
                for place in runs[int.from_bytes(number)]:
                    results.write(json.dumps([place, read(numbers[place])]).encode() + b"\n")
                    results.flush()
        code = 0
    except MemoryError:
        code = _EXIT_NO_MEMORY
    finally:
        os._exit(code)


def _await(process: int) -> None:
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == _EXIT_NO_MEMORY:
        raise MemoryError
    if code:
        raise ShareLostError(f"A process that read pages ended with {code}.")
