"""What is said about a long read."""

from __future__ import annotations

import pytest

from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.terminal.reading import ReadingAnnouncer, roughly


def lines_of(seconds_in_all: int, *, goes_on: bool) -> list[str]:
    """Return what is written about a read of 10,000 tokens that is told of twice a second."""
    lines: list[str] = []
    announcer = ReadingAnnouncer(lines.append, goes_on=goes_on)
    for half in range(2 * seconds_in_all + 1):
        announcer.tell(PrefillProgress(10_000 * half // (2 * seconds_in_all), 10_000, half / 2))
    return lines


def test_a_bar_is_preceded_by_the_time_of_a_long_read_only():
    assert lines_of(120, goes_on=False) == ["Reading 10,000 tokens takes about 2 minutes."]
    assert lines_of(20, goes_on=False) == []


def test_without_a_bar_lines_come_now_and_then():
    lines = lines_of(100, goes_on=True)
    assert lines[0] == "Reading 10,000 tokens takes about 2 minutes."
    assert lines[1] == "Read 1,300 of 10,000 tokens, about 85 seconds left."
    assert len(lines) == 10


def test_a_very_long_read_is_never_silent_for_minutes():
    lines = lines_of(3600, goes_on=True)
    assert 55 <= len(lines) <= 61


def test_a_short_read_says_nothing():
    assert lines_of(2, goes_on=True) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "5 seconds"), (42, "40 seconds"), (170, "3 minutes"), (5399, "90 minutes"), (5400, "1.5 hours")],
)
def test_times_are_rounded(seconds, text):
    assert roughly(seconds) == text
