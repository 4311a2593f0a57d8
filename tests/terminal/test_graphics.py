"""Cited pages on terminals that show pictures, and on others."""

from __future__ import annotations

import base64
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from fake_chat import PASSAGE, REPORT

from lrqk_cli.documents.drawing import Canvas, PageDrawing
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.reader_process import ReaderProcess
from lrqk_cli.documents.source import SourceFile

pexpect = pytest.importorskip("pexpect")
pytest.importorskip("pyte")
pytest.importorskip("pypdfium2", reason="the extra pages is not installed")
image = pytest.importorskip("PIL.Image")
if not hasattr(pexpect, "spawn"):
    pytest.skip("pseudo-terminals need a Unix system", allow_module_level=True)

from screen import Terminal  # noqa: E402

TESTS = Path(__file__).parents[1]
COLUMNS, LINES = 80, 24
ASKS_KITTY, ASKS_ATTRIBUTES = r"\x1b_G[^\x1b]*a=q[^\x1b]*\x1b\\", r"\x1b\[c"
CELL = {r"\x1b\[16t": "\x1b[6;20;10t"}
KITTY = {ASKS_KITTY: "\x1b_Gi=1;OK\x1b\\", **CELL, ASKS_ATTRIBUTES: "\x1b[?62c"}
# It says how many colours and pixels a picture may have.
LIMITS = {r"\x1b\[\?1;1;0S": "\x1b[?1;0;16S", r"\x1b\[\?2;1;0S": "\x1b[?2;0;300;320S"}
SIXEL = {**CELL, **LIMITS, ASKS_ATTRIBUTES: "\x1b[?62;4;22c"}
_KITTY = re.compile(r"\x1b_G([^;\x1b]*);([^\x1b]*)\x1b\\")
_SIXELS = re.compile(r"\x1bP[\d;]*q([^\x1b]*)\x1b\\")


def answered(answers: Mapping[str, str], **settings) -> Terminal:
    """Return a chat in which a question was answered from page 8."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [TESTS / "fake_terminal.py", "--cites"]
    terminal = Terminal(
        command, COLUMNS, lines=LINES, answers=answers, variables={"PYTHONPATH": path}, **settings
    )
    terminal.wait("Ask a question" if settings.get("term") != "dumb" else ">$")
    terminal.type("How many?\r")
    terminal.wait("cpu peak")
    terminal.wait("page 8")
    terminal.idle()
    return terminal


def leave(terminal: Terminal) -> None:
    terminal.type("\x03\x04")
    assert terminal.end() == 0


def shown_by_kitty(raw: str):
    parts = [(keys, data) for keys, data in _KITTY.findall(raw) if "a=q" not in keys]
    keys = dict(key.split("=") for key in parts[0][0].split(","))
    assert [re.search(r"m=(\d)", keys)[1] for keys, _ in parts] == ["1"] * (len(parts) - 1) + ["0"]
    assert (keys["a"], keys["f"], keys["o"], keys["q"]) == ("T", "24", "z", "2")
    pixels = zlib.decompress(base64.b64decode("".join(data for _, data in parts)))
    return image.frombytes("RGB", (int(keys["s"]), int(keys["v"])), pixels)


def shown_by_sixels(raw: str):
    (content,) = _SIXELS.findall(raw)
    width, height = map(int, re.match(r'"1;1;(\d+);(\d+)', content).groups())
    picture, colours = image.new("RGB", (width, height)), {}
    column = top = colour = 0
    for match in re.finditer(r'#(\d+)(?:;2;(\d+);(\d+);(\d+))?|(?:!(\d+))?([?-~])|([$-])|"[\d;]*', content):
        number, *levels, count, code, move = match.groups()
        if number:
            colour = int(number)
            if levels[0]:
                colours[colour] = tuple(round(int(level) * 2.55) for level in levels)
        elif code:
            for _ in range(int(count or 1)):
                for row in range(6):
                    if (ord(code) - 63) >> row & 1:
                        picture.putpixel((column, top + row), colours[colour])
                column += 1
        elif move:
            column, top = 0, top + 6 * (move == "-")
    return picture


def difference(picture, drawn: PageDrawing, passage_too: bool = False) -> float:
    """Return the mean difference to the page, in [0, 255], beside the passage or in it."""
    from PIL import ImageChops, ImageStat

    page = image.frombytes("RGB", (drawn.width, drawn.height), drawn.image)
    assert picture.size == page.size
    marked = image.new("L", page.size, 0)
    for mark in drawn.marks[0]:
        corner = int(mark.left * page.width), int(mark.top * page.height)
        opposite = (mark.left + mark.width) * page.width + 2, (mark.top + mark.height) * page.height + 2
        marked.paste(255, (*corner, *map(int, opposite)))
    mask = marked if passage_too else ImageChops.invert(marked)
    return max(ImageStat.Stat(ImageChops.difference(picture, page), mask).mean)


@pytest.mark.parametrize(
    ("answers", "shown", "rows", "most"), [(KITTY, shown_by_kitty, 20, 0), (SIXEL, shown_by_sixels, 16, 4)]
)
def test_the_page_is_drawn_with_its_passage_marked(answers, shown, rows, most):
    with ReaderProcess(ReadLimits()) as process:
        canvas = Canvas(COLUMNS * 10, rows * 20, "rgb")
        page = process.draw(SourceFile(REPORT, "report.pdf", b""), 8, [PASSAGE], canvas)
    terminal = answered(answers, colour=answers is KITTY)
    terminal.type("/sources --show 1\r")
    terminal.wait(rf"report.pdf, page 8\n{{{rows + 1}}}>")
    terminal.idle()
    picture = shown(terminal.raw)
    assert picture.height == rows * 20
    assert difference(picture, page) <= most
    assert difference(picture, page, passage_too=True) > 25
    if answers is SIXEL:
        assert len(picture.getcolors()) <= 16
    leave(terminal)


def test_a_terminal_that_does_not_answer_is_not_waited_for_for_long():
    terminal = answered({ASKS_ATTRIBUTES: "", ASKS_KITTY: ""})
    terminal.type("/sources --show\r")
    terminal.idle()
    terminal.type("typed ahead")
    terminal.wait(r"(?s)This terminal shows no pictures\..*> typed ahead", timeout=10)
    leave(terminal)


def test_tmux_is_not_asked_as_kitty_and_keys_between_answers_are_of_the_next_line():
    terminal = answered({r"\x1b\[16t": "typed ah", ASKS_ATTRIBUTES: "é\x1b[?1;2cad"}, term="tmux-256color")
    terminal.type("/sources --show\r")
    terminal.wait(r"(?s)passes no pictures on.*tmux 3\.4.*/open 1.*> typed ahéad")
    assert terminal.raw.count("typed") == 1
    assert "\x1b_" not in terminal.raw
    leave(terminal)


def test_a_dumb_terminal_is_asked_nothing():
    terminal = answered({}, term="dumb")
    terminal.type("/sources --show\r")
    terminal.wait(r"This terminal shows no pictures\.")
    assert not re.search(r"\x1b(_|\[c|\[16t|P)", terminal.raw)
    terminal.type("\x04")
    assert terminal.end() == 0
