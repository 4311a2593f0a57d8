"""What is redrawn in place, on a terminal that gets narrower."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from lrqk_cli.terminal.live import SteadyLive


@pytest.mark.parametrize(
    ("columns", "rows"), [(100, 2), (99, 3), (50, 3), (33, 5), (20, 6)], ids=lambda number: str(number)
)
def test_all_rows_that_a_line_was_broken_into_are_taken_away(columns, rows):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with SteadyLive(Text("=" * 100 + "\n" + "-" * 20), console) as live:
        console.width = columns
        out.seek(0)
        out.truncate()
        live.refresh()
        drawn_anew = out.getvalue()
    # The row that the cursor is on, and as many above it as there are.
    assert drawn_anew.count("\x1b[2K") == rows
    assert drawn_anew.count("\x1b[1A") == rows - 1


@pytest.mark.parametrize("place", ["rich.console.Console.set_live", "rich.live._RefreshThread.start"])
def test_the_cursor_is_shown_again_if_ctrl_c_comes_at_the_start(monkeypatch, place):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with monkeypatch.context() as patched:
        patched.setattr(place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            SteadyLive("x", console).start()
    assert out.getvalue().rfind("\x1b[?25h") >= out.getvalue().rfind("\x1b[?25l")
    with SteadyLive("another one", console):
        pass
