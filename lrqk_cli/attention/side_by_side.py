"""Many small problems on the CPU at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


def run_side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Run all tasks, as many at a time as torch has threads, each on a single one of them.

    Matrices of a head's size are too small for LAPACK to share out among threads: a processor with 16 cores
    solves those of 32 layers some ten times sooner layer by layer on each. Tasks must leave products to the
    CPU: on a GPU, every thread that multiplies takes scratch of its own for cuBLAS, and keeps it.
    """
    if len(tasks) < 2:
        for task in tasks:
            task()
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for future in [pool.submit(task) for task in tasks]:
                future.result()
    finally:
        # The number of LAPACK's threads is one for the whole process.
        torch.set_num_threads(threads)
