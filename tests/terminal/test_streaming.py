from __future__ import annotations

import io

import pytest
from rich.console import Console

from lrqk_cli.chat.printable import printable
from lrqk_cli.terminal.streaming import PlainStream, StatusStream

TEXT = "A first line that is longer than forty columns, so it wraps.\n\n    indented\n\tdone\nThe end"


def console(width: int = 40) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)


def shown(text: str, pieces: int, width: int = 40) -> str:
    target = console(width)
    with StatusStream(target, lambda _columns: "status") as stream:
        for start in range(0, len(text), pieces):
            stream.add(text[start : start + pieces])
    return target.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
def test_the_pieces_make_no_difference(pieces):
    whole = shown("one two three four five six seven eight nine ten eleven twelve\n- x\n  y", 1000)
    assert shown("one two three four five six seven eight nine ten eleven twelve\n- x\n  y", pieces) == whole


def test_no_word_is_lost_or_cut():
    assert shown(TEXT, 3).split() == TEXT.split()


def test_rows_are_as_wide_as_the_terminal_at_most_and_keep_their_indent():
    rows = shown(TEXT, 5).splitlines()
    assert max(map(len, rows)) <= 40
    assert "    indented" in rows


def test_control_characters_cannot_reach_the_terminal():
    assert printable("a\x1b[2Jb\x07c\x9bd\ne\tf\r\n\u202eg\udc80") == (
        r"a\x1b[2Jb\x07c\x9bd" "\ne\tf\n" r"\u202eg\udc80"
    )


def test_a_plain_stream_writes_as_is_and_ends_its_line(capsys):
    with PlainStream() as stream:
        stream.add("one ")
        stream.add("")
        stream.add("two")
    assert capsys.readouterr().out == "one two\n"


def test_a_plain_stream_adds_no_second_newline(capsys):
    with PlainStream() as stream:
        stream.add("one\n")
    assert capsys.readouterr().out == "one\n"
