"""Solve many small problems on the CPU in parallel."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from threading import Lock, local
from typing import Generic, TypeVar

import torch

# How long a thread may keep Python's lock while others wait. By default it is 5 ms, which the thread that
# feeds the device would lose each time.
_SWITCH_SECONDS = 2e-4


class _Switching:
    """Shortens Python's switch interval as long as any pool is open."""

    def __init__(self) -> None:
        self._lock, self._pools, self._before = Lock(), 0, sys.getswitchinterval()

    def begin(self) -> None:
        """Count one more pool."""
        with self._lock:
            if not self._pools:
                self._before = sys.getswitchinterval()
            self._pools += 1
            sys.setswitchinterval(_SWITCH_SECONDS)

    def end(self) -> None:
        """Count one pool less."""
        with self._lock:
            self._pools -= 1
            if not self._pools:
                sys.setswitchinterval(self._before)


_switching = _Switching()

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


class _Current(local):
    """The pool whose task the thread runs."""

    pool: ThreadPoolExecutor | None = None


_current = _Current()


class SolverPool(Generic[_Result]):
    """Runs tasks in background threads: as many at a time as torch has threads, one thread per task.

    Threads that share a small tensor wait for each other after every operation. With one thread per layer, a
    processor with 16 cores solves 32 layers about ten times faster. Tasks must multiply on the CPU: each
    thread that multiplies on a GPU would allocate its own cuBLAS workspace and keep it.

    Use as a context manager; leaving it cancels the tasks that have not begun.
    """

    def __init__(self, tasks: Sequence[Callable[[], _Result]] = ()) -> None:
        self._threads = torch.get_num_threads()
        _switching.begin()
        self._pool = ThreadPoolExecutor(
            self._threads, initializer=self._begin_thread, thread_name_prefix="lrqk-solver"
        )
        try:
            self._futures = [self.submit(task) for task in tasks]
        except BaseException:
            _switching.end()
            raise

    def _begin_thread(self) -> None:
        torch.set_num_threads(1)
        _current.pool = self._pool

    def submit(self, task: Callable[[], _Result]) -> Future[_Result]:
        """Add a task, which ``results`` does not cover; tasks begin in the order of their coming."""
        try:
            return self._pool.submit(_as_here(task))
        except BaseException:
            # Ctrl-C while the executor starts a thread: it has not noted the thread yet, which would wait for
            # tasks for ever, and the end of Python for it.
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise

    def results(self) -> list[_Result]:
        """Wait for the tasks of the constructor and return their results, once, in the order of the tasks."""
        return take_results(self._futures)

    def __enter__(self) -> SolverPool[_Result]:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._pool.shutdown(cancel_futures=True)
        finally:
            # The workers have changed LAPACK's thread count, which the whole process shares.
            torch.set_num_threads(self._threads)
            _switching.end()


def take_results(futures: list[Future[_Result]]) -> list[_Result]:
    """Wait for tasks, empty the list of them, and return their results in its order; raise what one raised.

    A future keeps its error, and the error's traceback keeps what is in its frames: with the future in one of
    them, a failed task would stay in memory with all of its tensors.
    """
    try:
        return list(map(Future.result, futures))
    finally:
        futures.clear()


def spread(solve: Callable[[_Part], _Result], parts: Iterable[_Part]) -> list[_Result]:
    """Solve for the parts of a task of a pool, with the help of its idle threads.

    So the last of many tasks, which somebody waits for, takes less time. Without a pool the caller's thread
    solves for all parts.

    Returns:
        The results, in the order of the parts.
    """
    waiting = deque(enumerate(parts))
    results: dict[int, _Result] = {}

    def work() -> None:
        while waiting:
            try:
                number, part = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            results[number] = solve(part)

    helpers: list[Future[None]] = []
    if _current.pool is not None:
        helpers = [_current.pool.submit(_as_here(work)) for _ in range(len(waiting) - 1)]
    try:
        work()
    finally:
        # A helper that has not begun finds nothing to do. Waiting for it could take forever: perhaps all
        # threads are waiting, each in a task of its own.
        running = [helper for helper in helpers if not helper.cancel()]
        helpers.clear()
    take_results(running)
    return [results[number] for number in sorted(results)]


def _as_here(task: Callable[[], _Result]) -> Callable[[], _Result]:
    """Return a task for another thread: threads have inference modes and CUDA streams of their own."""
    inference = torch.is_inference_mode_enabled()
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def run() -> _Result:
        with torch.inference_mode(inference), torch.cuda.stream(stream) if stream else nullcontext():
            return task()

    return run


def run_solvers(tasks: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Run all tasks and return their results; see ``SolverPool``. The caller's thread runs a single task."""
    if len(tasks) < 2:
        return [task() for task in tasks]
    with SolverPool(tasks) as running:
        return running.results()
