"""Signals at random moments of a chat on a terminal.

A case chooses the stage, the signal and the delay; at which instruction the signal arrives, the machine does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any

import psutil
from tiny import save_tiny_chat_model

from fuzz.command_line import own_folders
from fuzz.programs import NEVER, WAITING_S, import_as, run_piped
from fuzz.terminals import TerminalProgram
from lrqk_cli.chat import keeping
from lrqk_cli.chat.archive import Archive, SavedExchange, load
from lrqk_cli.chat.journal import SessionStore
from lrqk_cli.engine import prefix
from lrqk_cli.errors import UsageError

_SESSION = "talk"
_LAST = "What comes at the end?"
_QUESTIONS = ("What is it?", "And why?", "Quote the third sentence.", "x", "是什么?")
_LOOKS = ("/stats", "/files", "/sources", "/set", "/help", "/pages", "/load", "/drop 99", "/set top_k=16")
_CHANGES = ("/file notes.txt", "/file report.pdf", "/drop", "/undo", "/retry", "/export! talk.md")
# Stages of a chat, how often each is chosen, and the seconds that it takes.
_STAGES = {
    "prompt": (6, 0.1),
    "typing": (4, 0.1),
    "question": (24, 0.3),
    "command": (24, 0.6),
    "start": (9, 1.6),
    "leaving": (9, 0.3),
}
_INTERRUPTS = ("Ctrl-C", "SIGINT")
_TWICE = ("Ctrl-C twice", "SIGINT twice", "Ctrl-C five times")
# Stages that Ctrl-C may end, and that it may end if it comes again before the first one took effect.
_LEFT_BY_ONE = ("start", "leaving")
_LEFT_BY_TWO = (*_LEFT_BY_ONE, "question", "command")
_PASSING = ("SIGWINCH", "SIGTSTP")
_ENDS = {"SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP, "hang-up": signal.SIGHUP}
# What Ctrl-C during /quit says, which is a command.
_NOT_LEFT = "Interrupted. The conversation is as it was before."
_PASSED_S, _TYPED_AGAIN_S = 0.05, 5.0
_MOST_ENTRIES = 8
_COMPARED_EVERY = 12
# The cursor is shown, and pasted text is not marked.
_MODES = re.compile(r"\x1b\[\?(25|2004)([hl])")


class ChatSignals:
    """A chat goes on after Ctrl-C, a changed window and a stop, and ends by other signals.

    At each prompt what the database has is the conversation; whatever ended the chat, no finished turn is
    lost, and the session goes on with the answers of one that nothing has disturbed.
    """

    def prepare(self, folder: Path) -> None:
        from fuzz.pdf_files import seeds

        own_folders(folder)
        keeping.WORTH_SECONDS, prefix.BLOCK_TOKENS = 0.0, 64
        temporary = folder / "tmp"
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)
        (folder / "notes.txt").write_text("The keeper of the house counts seven lamps. " * 4)
        (folder / "report.txt").write_text("The revenue of the year was 48.2 million. " * 12)
        (folder / "report.pdf").write_bytes(min(seeds().values(), key=len))
        self._folder, self._number = folder, 0
        self._chat: TerminalProgram | None = None
        self._base = ["--model", save_tiny_chat_model(folder / "tiny"), "--ctx", 4000, "--segment", 32]
        self._base += ["--temperature", 0, "--max-new-tokens", 16]
        os.environ["OMP_NUM_THREADS"] = "1"
        import_as("chat", *self._base, "--prompt", "x", "--json")
        import lrqk_cli.terminal.interactive  # noqa: F401

    def run(self, number: int, rng: Random) -> str:
        stage = rng.choices([*_STAGES], [often for often, _ in _STAGES.values()])[0]
        kind = rng.choice((*_INTERRUPTS * 4, *_TWICE, *_PASSING * 2, *_ENDS))
        try:
            said = self._strike(stage, kind, rng)
            if number % _COMPARED_EVERY == _COMPARED_EVERY - 1:
                self._compare()
        except BaseException:
            self._give_up()
            raise
        return said

    def _strike(self, stage: str, kind: str, rng: Random) -> str:
        if stage == "start":
            self._leave()
        else:
            self._make_room()
        before = self._recorded()
        line = self._reach(stage, rng)
        chat = self._chat
        assert chat is not None
        mark = len(chat.shown) if stage != "start" else 0
        chat.pump(rng.uniform(0, _STAGES[stage][1]))
        self._send(kind, stage, rng)
        after = self._settle(stage, mark)
        case = f"{kind} at {stage} {line!r}"
        shown = chat.shown[mark:]
        assert not NEVER.search(shown), f"{case}: {shown}"
        if after is None:
            how = self._ended(stage, kind, f"{case}: {shown}")
            after = self._recorded()
        else:
            how = "went on"
            assert after == self._recorded(), f"{case}: recorded {self._recorded()}\nstands {after}\n{shown}"
        kept = len([*takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))])
        assert len(before) - kept <= (line in ("/undo", "/retry")), (
            f"{case}: {before} became {after}\n{shown}"
        )
        # The first question is recorded with the document.
        assert len(after) <= max(len(before) + 1, 2), f"{case}: {before} became {after}\n{shown}"
        return f"{stage} {how}"

    def _reach(self, stage: str, rng: Random) -> str:
        """Begin what is to be disturbed; return the line that was entered."""
        if stage == "start":
            self._begin()
            return ""
        chat = self._chat
        assert chat is not None
        line = ""
        if stage == "question":
            line = rng.choice(_QUESTIONS)
        elif stage == "command":
            line = rng.choice(_LOOKS + _CHANGES * 2)
        elif stage == "leaving":
            line = rng.choice(("/quit", "\x04"))
        elif stage == "typing":
            chat.type("half a l")
        if line:
            chat.type(line if line == "\x04" else f"{line}\r")
        return line

    def _send(self, kind: str, stage: str, rng: Random) -> None:
        chat = self._chat
        assert chat is not None
        if kind in _INTERRUPTS or kind in _TWICE:
            for turn in range(1 if kind in _INTERRUPTS else 5 if "five" in kind else 2):
                chat.pump(rng.uniform(0, 0.1) if turn else 0)
                if "Ctrl-C" in kind:
                    chat.type("\x03")
                else:
                    chat.kill(signal.SIGINT)
        elif kind == "SIGWINCH":
            for _ in range(10):
                chat.resize(rng.randint(1, 60), rng.randint(1, 200))
                chat.pump(rng.uniform(0, 0.03))
            chat.resize(40, 100)
        elif kind == "SIGTSTP":
            self._stop_and_go_on(stage)
        elif kind == "hang-up":
            chat.hang_up()
        else:
            chat.kill(_ENDS[kind])

    def _stop_and_go_on(self, stage: str) -> None:
        chat = self._chat
        assert chat is not None
        chat.kill(signal.SIGTSTP)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and chat.code is None:
            with suppress(psutil.Error):
                if psutil.Process(chat.process).status() == psutil.STATUS_STOPPED:
                    break
            chat.pump(0.01)
        chat.kill(signal.SIGCONT)

    def _settle(self, stage: str, mark: int) -> list[str] | None:
        """Wait for the next prompt or the end; return the entries of the conversation that stands, if any."""
        chat = self._chat
        assert chat is not None
        if stage == "leaving" and not chat.until(lambda: _NOT_LEFT in chat.shown[mark:]):
            chat.end()
            return None
        self._number += 1
        copy = self._folder / f"copy-{self._number}.json"
        chat.pump(_PASSED_S)
        deadline = time.monotonic() + WAITING_S
        while not copy.exists():
            if chat.code is not None:
                return None
            chat.check(time.monotonic() < deadline, "There is no prompt")
            chat.type(f"\x15/save! {copy.name}\r")
            chat.until(copy.exists, _TYPED_AGAIN_S)
        chat.check(chat.until(lambda: chat.reads_after(copy.name)), "There is no prompt")
        entries = _entries(load(copy))
        copy.unlink()
        return entries if self._recorded() or any(entry.startswith("(") for entry in entries) else []

    def _ended(self, stage: str, kind: str, case: str) -> str:
        chat = self._chat
        assert chat is not None
        code = chat.end()
        allowed = {0} if stage == "leaving" else set[int]()
        if kind in _ENDS:
            allowed |= {128 + _ENDS[kind], -_ENDS[kind]}
        elif stage in (_LEFT_BY_ONE if kind in _INTERRUPTS else _LEFT_BY_TWO if kind in _TWICE else ()):
            allowed |= {130}
        assert code in allowed, f"exit code {code} after {case}"
        if kind != "hang-up":
            assert chat.modes == chat.before, f"terminal {chat.modes}, before {chat.before}, after {case}"
            left = dict(_MODES.findall(chat.shown))
            assert left.get("25", "h") == "h", f"no cursor after {case}"
            assert left.get("2004", "l") == "l", f"pasted text is marked after {case}"
        chat.close()
        self._chat = None
        self._check_folder(case)
        return f"ended {code}"

    def _check_folder(self, case: str) -> None:
        """Look for what an ended chat may have left."""
        left = [path for pattern in ("*.part", "*.tmp", "tmp/*") for path in self._folder.rglob(pattern)]
        assert not left, f"{left} after {case}"
        with suppress(UsageError):
            SessionStore().open(_SESSION).close()

    def _begin(self) -> None:
        arguments = ["chat", "report.txt", *self._base, "--session", _SESSION]
        self._chat = TerminalProgram(arguments)

    def _make_room(self) -> None:
        """Have a chat at its prompt, whose context has room."""
        if self._chat is None:
            self._begin()
            chat = self._chat
            assert chat is not None
            chat.check(chat.until(lambda: chat.reads_after("Ask a question")), "There is no chat")
        if len(self._recorded()) > _MOST_ENTRIES:
            self._say("/clear")

    def _say(self, line: str) -> None:
        chat = self._chat
        assert chat is not None
        mark = len(chat.shown)
        chat.type(f"{line}\r")
        chat.check(
            chat.until(lambda: line in chat.shown[mark:] and chat.reads_after(line)), "There is no prompt"
        )

    def _leave(self) -> None:
        if self._chat is not None:
            self._chat.type("/quit\r")
            code = self._chat.end()
            assert code == 0, f"/quit ended with {code}: {self._chat.shown[-3000:]}"
            self._chat.close()
            self._chat = None

    def _recorded(self) -> list[str]:
        """The entries of the session in the database."""
        try:
            return _entries(SessionStore().archive(_SESSION))
        except UsageError:
            return []

    def _compare(self) -> None:
        """Ask in the session, and in one with the same conversation that has been recorded as a whole."""
        self._leave()
        if not self._recorded():
            return
        archive, state = SessionStore().archive(_SESSION), self._folder / "state"
        found = self._answer()
        shutil.rmtree(state)
        with SessionStore().open(_SESSION) as journal:
            journal.record(archive)
        assert found == self._answer(), (found, archive)

    def _answer(self) -> Any:
        out = run_piped("chat", *self._base, "--session", _SESSION, "--prompt", _LAST, "--json")
        return json.loads(out)["answer"]

    def _give_up(self) -> None:
        if self._chat is not None:
            self._chat.close()
            self._chat = None
        for path in (self._folder / "tmp").iterdir():
            path.unlink()


def _entries(archive: Archive) -> list[str]:
    # A file has the tokens of answers only where the tokenizer is known.
    return [
        repr((entry.question, entry.answer) if isinstance(entry, SavedExchange) else entry.title)
        for entry in archive.entries
    ]
