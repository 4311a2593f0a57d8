from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from lrqk_cli.chat.events import Answer, Timing
from lrqk_cli.chat.summary import statistics_line
from lrqk_cli.engine.events import MemoryUse, PrefillProgress
from lrqk_cli.memory.units import format_bytes
from lrqk_cli.models.progress import PullProgress
from lrqk_cli.telemetry.stats import DecodeTotals
from lrqk_cli.terminal.view import View

MEMORY = MemoryUse("cuda:0", 2_083_059_138, 3 << 30, 1 << 30, 421_527_552, 1 << 20, 1 << 22)
CACHE = DecodeTotals(40, 1000, 31, 31 * 512, 100, 4.0)
ANSWER = Answer("Yes.", "stop", 5210, 41, Timing(5200, 24.0, 24.84), MEMORY, CACHE)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1 << 20, "1.00 MiB"),
        (421_527_552, "402 MiB"),
        (12 << 30, "12.0 GiB"),
        (5000 << 30, "5000 GiB"),
    ],
)
def test_bytes_have_three_digits(size, text):
    assert format_bytes(size) == text


def test_the_statistics_name_tokens_times_misses_and_memory():
    assert statistics_line(ANSWER) == (
        "5,210 in · first after 24.8 s · 41 out at 10.0/s · misses 3.1% · cuda:0 peak 3.00 GiB"
    )


def test_the_statistics_count_reasoning_and_say_that_there_was_nothing_else():
    thought = replace(ANSWER, reasoning="Hm.", reasoning_tokens=7)
    assert " · 7 of reasoning · 41 out" in statistics_line(thought)
    target = View(Console(file=io.StringIO(), width=200))
    target.statistics(replace(thought, text="", new_tokens=0))
    assert "without an answer" in target.console.file.getvalue()


def test_without_tokens_the_statistics_have_no_speeds():
    empty = replace(ANSWER, new_tokens=0, timing=Timing(0, 0.0, None), cache=DecodeTotals())
    assert statistics_line(empty) == "5,210 in · 0 out · cuda:0 peak 3.00 GiB"


def view(*, terminal: bool, quiet: bool = False) -> tuple[View, io.StringIO]:
    out = io.StringIO()
    return View(Console(file=out, force_terminal=terminal, width=80, highlight=False), quiet), out


def test_a_pull_without_a_bar_says_once_what_it_does():
    target, out = view(terminal=False)
    with target.pulling("tiny") as report:
        for done in range(3):
            report(PullProgress("fetch", done, 3))
        report(PullProgress("prepare", 1, 3))
    assert out.getvalue().splitlines() == ["Fetching tiny.", "Preparing tiny."]


def draw(target: View) -> None:
    with target.prefilling("Reading", lambda _width: "the status") as update:
        update(PrefillProgress(10, 100, 1.0))
    with target.pulling("tiny") as report:
        report(PullProgress("fetch", 1 << 20, 4 << 20))


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True), (False, True)])
def test_no_bars_without_a_terminal_or_when_quiet(terminal, quiet):
    target, out = view(terminal=terminal, quiet=quiet)
    draw(target)
    assert out.getvalue() == ("" if quiet else "Fetching tiny.\n")


def test_bars_show_speed_and_status_on_a_terminal():
    target, out = view(terminal=True)
    draw(target)
    for part in ("Reading", "10/100", "10 tokens/s", "the status", "Fetching tiny", "1.00 MiB/4.00 MiB"):
        assert part in out.getvalue()


def test_without_a_bar_a_read_is_told_in_lines(monkeypatch):
    for term in (None, "dumb"):
        if term:
            monkeypatch.setenv("TERM", term)
        target, out = view(terminal=term is not None)
        with target.prefilling("Reading") as update:
            for second in range(0, 25, 4):
                update(PrefillProgress(100 * second, 4000, float(second)))
        assert out.getvalue().splitlines() == [
            "Reading 4,000 tokens takes about 40 seconds.",
            "Read 1,600 of 4,000 tokens, about 25 seconds left.",
        ]


def test_a_load_without_a_bar_says_that_it_has_begun():
    target, out = view(terminal=False)
    with target.pulling("tiny", "Loading"):
        pass
    assert out.getvalue() == "Loading tiny.\n"


def test_the_bell_rings_on_a_terminal_after_long_work():
    rings = {}
    for name, terminal, bell, seconds in (
        ("long", True, True, 31.0),
        ("short", True, True, 29.0),
        ("off", True, False, 31.0),
        ("pipe", False, True, 31.0),
    ):
        out = io.StringIO()
        View(Console(file=out, force_terminal=terminal), bell=bell).ring(seconds)
        rings[name] = out.getvalue()
    assert rings == {"long": "\x07", "short": "", "off": "", "pipe": ""}


def test_quiet_keeps_warnings_only():
    target, out = view(terminal=False, quiet=True)
    target.note("a note")
    target.statistics(ANSWER)
    target.warn("page 3 has no text.")
    assert out.getvalue() == "Warning: page 3 has no text.\n"


@pytest.mark.parametrize(("reason", "word"), [("length", "--max-new-tokens"), ("context", "--ctx")])
def test_an_early_end_is_explained(reason, word):
    target, out = view(terminal=False)
    target.statistics(replace(ANSWER, finish_reason=reason))
    assert word in out.getvalue()


def test_messages_are_not_broken_into_lines_without_a_terminal():
    target, out = view(terminal=False)
    target.warn("word " * 60)
    assert out.getvalue().count("\n") == 1
