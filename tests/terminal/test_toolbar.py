from __future__ import annotations

from dataclasses import replace

import pytest

from lrqk_cli.chat.events import Status
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.telemetry.stats import DecodeTotals
from lrqk_cli.terminal.toolbar import status_line

MEMORY = MemoryUse("cuda:0", 18 << 30, 19 << 30, 15 << 30, 8 << 30, 1 << 29, 1 << 30, 24 << 30)
CACHE = DecodeTotals(40, 1000, 31, 40 << 20, 100, 4.0)
RECENT = DecodeTotals(4, 100, 7, 8 << 20, 10, 0.5)
STATUS = Status(31_003, 131_072, MEMORY, CACHE, RECENT)


@pytest.mark.parametrize("width", range(10, 200, 7))
def test_it_fits_its_width(width):
    assert len(status_line(STATUS, width, "llama")) <= width


def test_a_wide_one_shows_everything_of_the_last_steps():
    assert status_line(STATUS, 200, "llama") == (
        "llama · 31,003/131,072 tokens · cuda:0 18.0 GiB of 24.0 GiB · weights 15.0 GiB, index 512 MiB, "
        "hot 1.00 GiB · KV 8.00 GiB · misses 7.0% · link 16.0 MiB/s · 8.0 tok/s"
    )


def test_at_80_columns_context_memory_misses_and_speed_stay():
    assert status_line(STATUS, 80, "llama") == (
        "31,003/131,072 tokens · cuda:0 18.0 GiB of 24.0 GiB · misses 7.0% · 8.0 tok/s"
    )


def test_without_steps_there_is_no_speed():
    idle = replace(STATUS, cache=DecodeTotals(), recent=DecodeTotals())
    assert status_line(idle, 60) == "31,003/131,072 tokens · cuda:0 18.0 GiB of 24.0 GiB"
