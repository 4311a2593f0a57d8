"""Many small problems on the CPU at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

import torch

_Result = TypeVar("_Result")


class SolverPool(Generic[_Result]):
    """Tasks that run while the caller goes on, as many at a time as torch has threads, each on one of them.

    Small tensors are not worth sharing out among threads, which wait for each other after every operation: a
    processor with 16 cores solves 32 layers some ten times sooner layer by layer on each. Tasks must leave
    products to the CPU: on a GPU, every thread that multiplies takes scratch of its own for cuBLAS, and keeps
    it.

    Use as a context manager; what has not begun when it is left is not done.
    """

    def __init__(self, tasks: Sequence[Callable[[], _Result]]) -> None:
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            self._threads, initializer=torch.set_num_threads, initargs=(1,), thread_name_prefix="lrqk-solver"
        )
        self._futures = [self._pool.submit(task) for task in tasks]

    def results(self) -> list[_Result]:
        """Wait for all tasks, and return what they have returned, in their order."""
        return [future.result() for future in self._futures]

    def __enter__(self) -> SolverPool[_Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        # The number of LAPACK's threads is one for the whole process.
        torch.set_num_threads(self._threads)


def run_solvers(tasks: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Run all tasks and return their results; see ``SolverPool``. A single one runs in the caller."""
    if len(tasks) < 2:
        return [task() for task in tasks]
    with SolverPool(tasks) as running:
        return running.results()
