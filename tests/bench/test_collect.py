"""What has been measured outlives what ends a run early."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lrqk_cli.bench.collect import collect


def two_then(error: BaseException | None) -> Iterator[int]:
    yield from (1, 2)
    if error is not None:
        raise error


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), MemoryError("full")])
def test_results_so_far_come_with_what_ended_the_run(error):
    assert collect(two_then(error)) == ([1, 2], error)


def test_without_any_result_the_error_goes_on():
    def nothing() -> Iterator[int]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        collect(nothing())
