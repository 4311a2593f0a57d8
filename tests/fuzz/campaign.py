"""Runs the cases of a target in a process of its own, which is watched, and counts what came of them."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import psutil

import fuzz.torch_threads  # noqa: F401

# A case that takes longer is a failure; where Python cannot stop it, the process is killed a little later.
CASE_S = 30.0
_GRACE_S = 15.0
# Bytes of data that a case may ask for, beyond what its process has at the start.
_ROOM = 3 << 30
# Of a traceback, from its end.
_FRAMES = -8
_ENDED = ()


class Target(Protocol):
    """A reader of lrqk, and how its input is made."""

    def prepare(self, folder: Path) -> None:
        """Make what the cases are made from; ``folder`` is empty, and is the working folder."""

    def run(self, number: int, rng: Random) -> str:
        """Make a case and have it read; return how it was answered.

        Raises:
            Exception: it was not answered as a user may expect.
        """


class Failure(NamedTuple):
    """A case that was not answered as it should be."""

    number: int
    what: str


class _TooSlowError(BaseException):
    """A case took too long. Not an ``Exception``, which libraries catch."""


@dataclass
class Tally:
    """What came of the cases.

    Attributes:
        answers: how many cases were answered in each way.
        slowest: seconds of the slowest case; grown: bytes that the process gained from its first tenth of
            cases to its end; peak: its most resident bytes.
    """

    cases: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0
    grown: int = 0
    seconds: float = 0.0


def campaign(
    target: Target, name: str, numbers: Iterable[int], seed: int, seconds: float = math.inf
) -> Tally:
    """Run cases of a target; a crash or an endless case ends its process, and another goes on.

    Args:
        numbers: of the cases. A case depends on its number, ``name`` and ``seed`` alone.
        seconds: begin no case after these.
    """
    tally, left = Tally(), list(numbers)
    began = time.monotonic()
    while left and time.monotonic() - began < seconds:
        left = _go_on(target, name, left, seed, began + seconds, tally)
    tally.seconds = time.monotonic() - began
    return tally


def _go_on(target: Target, name: str, numbers: list[int], seed: int, end: float, tally: Tally) -> list[int]:
    """Run cases in one process until it ends, or the time has come; return those that are left."""
    context = multiprocessing.get_context("fork")
    results, own = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(target, name, numbers, seed, end, own))
    with warnings.catch_warnings():
        # Of the other threads, which pytest may have, the fork needs nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    own.close()
    done, message = 0, None
    resident = list[int]()
    for message in _messages(results):
        if message is None or message == _ENDED:
            break
        if isinstance(message, str):
            raise RuntimeError(f"{name} could not begin:\n{message}")
        answer, failure, seconds, now, peak = message
        tally.slowest, tally.peak = max(tally.slowest, seconds), max(tally.peak, peak)
        if failure:
            tally.failures.append(Failure(numbers[done], failure))
        else:
            tally.answers[answer] += 1
        resident.append(now)
        done += 1
    if done < len(numbers) and message != _ENDED:
        _kill(process)
        how = f"ended with {process.exitcode}" if process.exitcode != -signal.SIGKILL else "had no end"
        tally.failures.append(Failure(numbers[done], f"The process {how}."))
        done += 1
    process.join()
    results.close()
    if resident:
        tally.grown = max(tally.grown, resident[-1] - resident[len(resident) // 10])
    tally.cases += done
    return numbers[done:]


def _messages(results: Connection) -> Iterator[Any]:
    """Yield messages until none comes in time, or the process has ended; then None."""
    while True:
        try:
            yield results.recv() if results.poll(CASE_S + _GRACE_S) else None
        except EOFError:
            yield None


def _kill(process: Any) -> None:
    process.join(1.0)  # one that crashed is about to end
    if process.is_alive():
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
    process.join()


def _work(target: Target, name: str, numbers: list[int], seed: int, end: float, results: Connection) -> None:
    signal.signal(signal.SIGALRM, _stop)
    own = psutil.Process()
    # What libraries say there is seen by no user; commands write to streams of the targets.
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    with tempfile.TemporaryDirectory(prefix="lrqk-fuzz-") as folder:
        os.chdir(folder)
        try:
            target.prepare(Path(folder))
        except Exception:
            results.send(traceback.format_exc())
            return
        gc.freeze()  # what is there already need not be searched after each case
        resource.setrlimit(resource.RLIMIT_DATA, (own.memory_info().data + _ROOM, resource.RLIM_INFINITY))
        for number in numbers:
            if time.monotonic() > end:
                break
            answer, failure, began = "", "", time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, CASE_S)
            try:
                answer = target.run(number, Random(f"{name} {seed} {number}"))
            except (Exception, SystemExit):
                failure = traceback.format_exc(limit=_FRAMES)
            except _TooSlowError:
                failure = "It took too long:\n" + traceback.format_exc(limit=_FRAMES)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            seconds = time.monotonic() - began
            gc.collect()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            results.send((answer, failure, seconds, own.memory_info().rss, peak))
        results.send(_ENDED)
        os.chdir("/")


def _stop(*_: object) -> None:
    raise _TooSlowError
