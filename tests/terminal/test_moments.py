"""Times of files and sessions, by any clock."""

from __future__ import annotations

from datetime import datetime

import pytest

from lrqk_cli.terminal.moments import local_time, shown_time


@pytest.mark.parametrize("seconds", [1e18, -1e18, float("inf"), float("nan")])
def test_a_number_that_is_no_date_is_a_dash(seconds: float) -> None:
    assert local_time(seconds) is None
    assert shown_time(seconds) == "-"


def test_a_date_has_its_minute() -> None:
    assert shown_time(datetime(2026, 3, 4, 5, 6, 7).timestamp()) == "2026-03-04 05:06"
