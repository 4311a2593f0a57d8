"""A terminal that a program runs on, and what stands on its screen."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pexpect
import pyte

LINES = 200
# Strings of kitty's protocol and of sixels, and the beginning of one that is not whole yet.
_PICTURE = re.compile(r"\x1b[_P].*?\x1b\\", re.DOTALL)
_BEGIN = re.compile(r"\x1b(?:[_P]|$)")
_TIMES = re.compile(r"first after \d+\.\d s")


class _Screen(pyte.Screen):
    """Answers the program's questions about the cursor."""

    child: pexpect.spawn

    def write_process_input(self, data: str) -> None:
        self.child.send(data)


class Terminal:
    """A program on a terminal that is high enough to scroll nothing away.

    Args:
        command: program and arguments.
        columns: width.
        colour: false sets ``NO_COLOR``.
        term: the value of ``TERM``.
        variables: more of the environment.
        lines: height.
        answers: what the terminal answers to a control sequence, by the pattern of that, in place of what the
            screen would; None for the screen's own answers.

    Attributes:
        raw: all that the program has written.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        columns: int = 80,
        *,
        colour: bool = True,
        term: str = "xterm-256color",
        variables: dict[str, str] | None = None,
        lines: int = LINES,
        answers: Mapping[str, str] | None = None,
    ) -> None:
        environment = {**os.environ, "TERM": term, "LANG": "C.UTF-8", **(variables or {})}
        for name in ("NO_COLOR", "COLORTERM", "COLUMNS", "LINES"):
            environment.pop(name, None)
        if not colour:
            environment["NO_COLOR"] = "1"
        self.screen = _Screen(columns, lines)
        self._stream = pyte.Stream(self.screen)
        self.child = pexpect.spawn(
            sys.executable,
            [str(word) for word in command],
            env=environment,
            dimensions=(lines, columns),
            encoding="utf-8",
            timeout=30,
        )
        self.screen.child = self.child
        self.raw = ""
        self._answers = {} if answers is None else {re.compile(key): text for key, text in answers.items()}
        self._unread = ""

    def wait(self, pattern: str, timeout: float = 30) -> None:
        """Wait until the screen shows a pattern."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text()):
            if time.monotonic() > deadline or not self._read():
                raise AssertionError(f"{pattern!r} is not on the screen:\n{self.text()}")

    def idle(self, seconds: float = 0.3) -> None:
        """Take in what comes until nothing has come for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before = len(self.raw)
            if not self._read(0.05):
                return
            if len(self.raw) > before:
                deadline = time.monotonic() + seconds

    def type(self, text: str) -> None:
        """Send keys."""
        self.child.send(text)

    def end(self) -> int:
        """Wait for the end; return the exit code, negative for a signal."""
        while self._read(5):
            pass
        self.child.close()
        assert "Traceback" not in self.raw, self.text()
        return -self.child.signalstatus if self.child.signalstatus else self.child.exitstatus or 0

    def text(self) -> str:
        """Return what is on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def transcript(self) -> str:
        """Return what is on the screen, with styles in angle brackets and without times."""
        lines = [self._styled(number) for number in range(LINES)]
        return _TIMES.sub("first after 0.0 s", "\n".join(lines)).rstrip() + "\n"

    def _styled(self, number: int) -> str:
        row, line, last = self.screen.buffer[number], "", ""
        width = len(self.screen.display[number].rstrip())
        for column in range(self.screen.columns):
            char = row[column]
            style = ",".join(
                [name for name in ("bold", "italics", "underscore", "reverse") if getattr(char, name)]
                + [colour for colour in (char.fg,) if colour != "default"]
            )
            if column >= width and style in ("", last):
                break
            if style != last:
                line += f"⟨{style}⟩"
                last = style
            line += char.data
        return line.rstrip() + ("⟨⟩" if last else "")

    def _read(self, timeout: float = 0.2) -> bool:
        try:
            shown = self.child.read_nonblocking(4096, timeout)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += shown
        self._stream.feed(self._without_pictures(shown))
        return True

    def _without_pictures(self, shown: str) -> str:
        """Answer what is asked; return what the screen can show, as soon as it is whole."""
        text = self._unread + shown
        for question, answer in self._answers.items():
            text, count = question.subn("", text)
            self.child.send(answer * count)
        text = _PICTURE.sub("", text)
        begin = _BEGIN.search(text)
        end = len(text) if begin is None else begin.start()
        self._unread = text[end:]
        return text[:end]
