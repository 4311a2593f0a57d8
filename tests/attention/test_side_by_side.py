"""Many small problems on the CPU at once."""

from __future__ import annotations

import threading

import pytest
import torch

from lrqk_cli.attention.side_by_side import run_side_by_side


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_every_task_runs_once(count: int) -> None:
    done: list[int] = []
    run_side_by_side([lambda number=number: done.append(number) for number in range(count)])  # type: ignore[misc]
    assert sorted(done) == list(range(count))


def test_the_threads_of_torch_are_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    inside: list[int] = []
    try:
        run_side_by_side([lambda: inside.append(torch.get_num_threads())] * 5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert inside == [1] * 5


def test_tasks_run_at_the_same_time() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=30)
    try:
        run_side_by_side([lambda: (meeting.wait(), None)[1]] * 2)
    finally:
        torch.set_num_threads(before)


def test_a_failure_reaches_the_caller() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_side_by_side([fail, lambda: None])
