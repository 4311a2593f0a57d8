"""Many small problems on the CPU at once."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from unittest.mock import patch

import pytest
import torch

from lrqk_cli.solver_pool import SolverPool, run_solvers, spread


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_every_task_runs_once(count: int) -> None:
    done: list[int] = []

    def task(number: int) -> int:
        done.append(number)
        return number * number

    assert run_solvers([partial(task, number) for number in range(count)]) == [n * n for n in range(count)]
    assert sorted(done) == list(range(count))


def test_the_threads_of_torch_are_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    inside: list[int] = []
    try:
        run_solvers([lambda: inside.append(torch.get_num_threads())] * 5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert inside == [1] * 5


def test_tasks_run_at_the_same_time() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=30)
    try:
        run_solvers([lambda: (meeting.wait(), None)[1]] * 2)
    finally:
        torch.set_num_threads(before)


def test_what_has_not_begun_is_not_done_once_nobody_waits() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    done: list[int] = []
    begun, goes_on = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        goes_on.wait(30)

    try:
        with SolverPool([first, *(partial(done.append, number) for number in range(20))]):
            begun.wait(30)
            # Leaving waits for the task under way.
            threading.Timer(0.2, goes_on.set).start()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert done == []


def test_a_failure_reaches_the_caller() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_solvers([fail, lambda: None])


@pytest.mark.parametrize("wanted", [True, False])
def test_tasks_run_in_the_inference_mode_of_the_caller(wanted: bool) -> None:
    with torch.inference_mode(wanted):
        assert run_solvers([torch.is_inference_mode_enabled] * 3) == [wanted] * 3


@pytest.mark.parametrize("wanted", [True, False])
def test_a_task_that_comes_later_runs_as_its_caller_would(wanted: bool) -> None:
    threads = torch.get_num_threads()
    with SolverPool[bool]() as pool:
        with torch.inference_mode(wanted):
            found = pool.submit(torch.is_inference_mode_enabled)
        assert found.result() is wanted
        assert pool.results() == []
    assert torch.get_num_threads() == threads


def test_results_do_not_wait_for_tasks_that_come_later() -> None:
    goes_on = threading.Event()
    with SolverPool([lambda: 1]) as pool:
        later = pool.submit(lambda: int(goes_on.wait(30)))
        assert pool.results() == [1]
        goes_on.set()
        assert later.result() == 1


def test_threads_of_torch_are_as_they_were_after_a_second_interrupt() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        pool = SolverPool([lambda: None])
        with (
            patch.object(pool._pool, "shutdown", side_effect=KeyboardInterrupt),
            suppress(KeyboardInterrupt),
            pool,
        ):
            pool.results()
        assert torch.get_num_threads() == 3
        pool._pool.shutdown()
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_parts_are_solved_once_and_in_order(workers: int, count: int) -> None:
    """Also if all threads run tasks that have parts: none waits for a thread."""
    done: list[int] = []

    def square(number: int) -> int:
        done.append(number)
        return number * number

    expected = [number * number for number in range(count)]
    if not workers:
        assert spread(square, range(count)) == expected
        assert sorted(done) == list(range(count))
        return
    with threads(workers):
        tasks = [partial(spread, square, range(count))] * (2 * workers)
        assert run_solvers(tasks) == [expected] * (2 * workers)
    assert sorted(done) == sorted(list(range(count)) * (2 * workers))


def test_idle_threads_help() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def meet(_: int) -> bool:
        meeting.wait()
        return torch.is_inference_mode_enabled()

    with threads(2), torch.inference_mode(), SolverPool([lambda: spread(meet, range(2))]) as running:
        assert running.results() == [[True, True]]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_part_that_fails_fails_the_task(failing: int) -> None:
    meeting = threading.Barrier(2, timeout=30)

    def solve(number: int) -> None:
        meeting.wait()
        if number == failing:
            raise RuntimeError("fails")

    with threads(2), pytest.raises(RuntimeError, match="fails"), SolverPool() as pool:
        pool.submit(lambda: spread(solve, range(2))).result()


def test_a_thread_that_was_being_started_at_ctrl_c_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    started, start = list[threading.Thread](), threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SolverPool([lambda: None])
    started[0].join(10)
    assert not started[0].is_alive()


def test_what_a_failed_task_held_is_free_with_its_error() -> None:
    class Rows:
        pass

    held = []

    def fail() -> None:
        rows = Rows()
        held.append(weakref.ref(rows))
        raise MemoryError

    gc.disable()
    try:
        with suppress(MemoryError):
            run_solvers([fail, fail])
        with suppress(MemoryError):
            spread(lambda _: fail(), range(2))
        assert [rows() for rows in held] == [None] * len(held)
    finally:
        gc.enable()


def test_the_switch_interval_is_as_it_was_after_the_last_pool() -> None:
    before = sys.getswitchinterval()
    first, second = SolverPool[None](), SolverPool[None]()
    with first:
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() < before
    with second:
        pass
    assert sys.getswitchinterval() == before
