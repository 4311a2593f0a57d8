"""Reads the pages of an open file in several processes, each a share of them.

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
    if count < 2:
        found = []
        for done, number in enumerate(numbers):
            on_page(done, len(numbers))
            found.append(read(number))
    else:
        found = _read_shares(read, numbers, count, on_page)
    on_page(len(numbers), len(numbers))
    return found


def _read_shares(read: ReadPage, numbers: Sequence[int], count: int, on_page: OnPage) -> list[str | None]:
    texts: dict[int, str | None] = {}
    on_page(0, len(numbers))
    processes, lines = dict[int, int](), dict[int, bytes]()
    with selectors.DefaultSelector() as selector:
        for share in range(count):
            # Neighbouring pages have fonts in common, which each process parses once.
            first, end = (len(numbers) * each // count for each in (share, share + 1))
            output, process = _begin(read, numbers, range(first, end))
            processes[output], lines[output] = process, b""
            selector.register(output, selectors.EVENT_READ)
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


def _begin(read: ReadPage, numbers: Sequence[int], places: range) -> tuple[int, int]:
    """Fork a process for the pages at some places; return where its results come, and the process."""
    output, own = os.pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        # Of the other threads, which only wait for messages, the fork needs nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if not process:
        _read_share(read, numbers, places, own, parent)
    os.close(own)
    return output, process


def _read_share(read: ReadPage, numbers: Sequence[int], places: range, output: int, parent: int) -> NoReturn:
    code = 1
    try:
        end_with(parent)  # a page may take for ever
        with os.fdopen(output, "wb") as results:
            for place in places:
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
