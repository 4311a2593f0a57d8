from __future__ import annotations

import pytest

from lrqk_cli.telemetry.history import StepHistory
from lrqk_cli.telemetry.stats import NO_STEPS, StepStats


def reading(number: int) -> StepStats:
    return StepStats(
        rows_wanted=100, rows_fetched=number % 50, bytes_fetched=8, row_sets=4, seconds=0.25, steps=2
    )


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 5000])
def test_readings_stay_few_and_lose_nothing(count):
    history = StepHistory()
    for number in range(count):
        history.add(reading(number))
    assert len(history.readings) <= 256
    assert history.totals.steps == 2 * count == sum(item.steps for item in history.readings)
    assert history.totals.rows_fetched == sum(item.rows_fetched for item in history.readings)
    assert history.totals.bytes_per_second == (32 if count else 0)


def test_the_recent_ones_are_the_last_few():
    history = StepHistory()
    for number in range(10):
        history.add(reading(number))
    history.add(NO_STEPS)
    assert history.recent.rows_fetched == 6 + 7 + 8 + 9
    assert history.recent.steps == 8


def test_time_keeps_its_order():
    history = StepHistory()
    for number in range(1000):
        history.add(StepStats(rows_wanted=1, rows_fetched=number, steps=1))
    fetched = [item.rows_fetched / item.steps for item in history.readings]
    assert fetched == sorted(fetched)
