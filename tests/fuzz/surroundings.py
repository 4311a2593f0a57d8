"""The commands of a user, run in folders of their own while something around them fails, and what must hold.

A case runs a command of a user who has sessions, a stored document and saved files. The command does its
work, or says in a sentence why not. A run after it, without the fault, finds all of it either as it was or as
the command was to leave it.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from other_system import import_all
from prompt_toolkit.history import History
from session_processes import talk
from tiny import save_tiny_chat_model

from fuzz.command_line import Run, lrqk, own_folders
from fuzz.system_calls import Call, run_child
from lrqk_cli.chat import archive, keeping
from lrqk_cli.chat.archive import Archive, SavedExchange, archive_json
from lrqk_cli.chat.journal import SessionStore
from lrqk_cli.chat.private_files import write_private
from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine import prefix
from lrqk_cli.terminal import interactive
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands import files
from lrqk_cli.terminal.repl import Repl

_WORDS = "The revenue of the year was 48.2 million, and the plant at Brannock employs 412 people. "
_QUESTIONS = ("Who?", "Where?", "When?")
_LINES = (
    *("Why?", "How much?", "/save talk", "/save! kept", "/save talk.json", "/save! old.json"),
    *("/export talk.md", "/export! old.json", "/export talk.html", "/export talk.svg", "/file notes.txt"),
    *(
        "/load kept",
        "/load saved.json",
        "/load",
        "/undo",
        "/retry",
        "/drop",
        "/sources on",
        "/stats",
    ),
)
_LAST = "Last?"
_FAST = ("--max-new-tokens", 3, "--segment", 32)
_PART = ".part"
# The scenarios, and where a fault can meet each of them: parts of paths.
_STATE = ("sessions.sqlite3", "sessions.locks", "/state")
COMMANDS = {
    "chat": (*_STATE, "history", "/cache", "/case/", "/tmp", "/tiny/"),
    "ask": ("/cache", "/cache", "/case/", "/tiny/"),
    "ask in session": (*_STATE, "/case/"),
    "batch": ("answers.jsonl", "/case/", "questions.txt", "/cache"),
    "cache": ("/cache",),
    "sessions": (*_STATE, "talk.json", ".lrqk-"),
    "info": ("/tiny/",),
}


@dataclass(frozen=True)
class Line:
    """A line of a chat, what was said to it, and the conversation after it."""

    typed: str
    said: str
    after: Archive


@dataclass
class Outcome:
    """What a run has said, and meant to leave.

    Attributes:
        written: name of a file -> all texts that were to be written there.
        lines: of a chat on a terminal.
    """

    run: Run
    written: dict[str, list[str]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)


Scenario = Callable[[], Outcome]


class Surroundings:
    """Commands in folders of their own; a subclass lets something around them fail."""

    def prepare(self, folder: Path) -> None:
        self._case, self._first, self._model = folder / "case", folder / "first", folder / "tiny"
        own_folders(self._case)
        os.environ |= {"HOME": str(self._case), "TMPDIR": str(self._case / "tmp")}
        os.environ |= {"XDG_RUNTIME_DIR": str(self._case), "HF_HOME": str(self._case / "hf")}
        tempfile.tempdir = None
        save_tiny_chat_model(self._model)
        (self._case / "tmp").mkdir(parents=True)
        for name, text in (
            ("report.txt", _WORDS * 3),
            ("notes.txt", "Some notes."),
            ("questions.txt", "\n".join(_QUESTIONS)),
            ("saved.json", archive_json(_talk(2))),
            ("old.json", archive_json(_talk(1))),
        ):
            (self._case / name).write_text(text)
        os.chdir(self._case)
        keeping.WORTH_SECONDS, prefix.BLOCK_TOKENS = 0.0, 64
        for name in ("kept", "other"):
            with SessionStore().open(name) as journal:
                journal.record(_talk(3))
        # This process starts no threads, so that its forks may do anything. It imports what they need.
        import_all()
        self._expected = self._in_child(self._ask)
        assert self._expected.run.code == 0, self._expected
        shutil.copytree(self._case, self._first)

    def run(self, number: int, rng: Random) -> str:
        os.chdir("/")
        shutil.rmtree(self._case)
        shutil.copytree(self._first, self._case)
        os.chdir(self._case)
        name = rng.choice([*COMMANDS])
        return self._spoiled(name, self._scenario(name, rng), rng)

    def _spoiled(self, name: str, scenario: Scenario, rng: Random) -> str:
        """Run a scenario while something around it fails, check what came of it, and name it."""
        raise NotImplementedError

    def _in_child(self, scenario: Scenario, fails: Callable[[Call], int] | None = None) -> Outcome:
        found: Outcome = pickle.loads(run_child(lambda: pickle.dumps(scenario()), fails))
        return found

    # The commands of the user.

    def _scenario(self, name: str, rng: Random) -> Scenario:
        if name == "chat":
            lines = rng.choices(_LINES, k=4)
            return lambda: self._chat(lines)
        if name == "ask":
            return self._ask
        if name == "ask in session":
            return lambda: self._ask("--session", rng.choice(("kept", "new")))
        if name == "batch":
            return self._batch
        commands: dict[str, Sequence[tuple[object, ...]]] = {
            "cache": (
                ("list",),
                ("prune",),
                ("clear", "--yes"),
                ("remove", "report.txt"),
                ("show", "report.txt"),
            ),
            "sessions": (
                *(("list",), ("show", "kept"), ("search", "answer"), ("export", "kept", "talk.json")),
                *(("rename", "kept", "renamed"), ("remove", "--yes", "kept")),
            ),
            "info": (("--model", self._model),),
        }
        command = rng.choice(commands[name])
        return lambda: Outcome(lrqk(name, *command))

    def _ask(self, *more: object) -> Outcome:
        return Outcome(
            lrqk("chat", "report.txt", "--model", self._model, *_FAST, "--json", "--prompt", "Why?", *more)
        )

    def _batch(self) -> Outcome:
        asked = ("--prompts-file", "questions.txt", "--answers-file", "answers.jsonl")
        return Outcome(lrqk("chat", "report.txt", "--model", self._model, *_FAST, *asked))

    def _chat(self, lines: Sequence[str]) -> Outcome:
        """Hold a chat on a terminal: all is real but for the reader of the keyboard."""
        outcome = Outcome(Run(0, "", ""))
        typed = iter([*lines, _LAST])

        class Typed:
            """Types the lines, and notes what came of each."""

            ctx: CommandContext

            def __init__(self, history: History, *_: object) -> None:
                self._history, self._line, self._shown = history, "", 0

            def read(self, _: str = "") -> str | None:
                shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
                outcome.lines.append(Line(self._line, shown[self._shown :], self._standing()))
                self._shown = len(shown)
                self._line = next(typed, "")
                if self._line:
                    self._history.append_string(self._line)
                return self._line or None

            def clear(self) -> bool:
                return False

            def _standing(self) -> Archive:
                return self.ctx.archive(self.ctx.tokenizer_id())

        class WatchedRepl(Repl):
            def __init__(self, ctx: CommandContext, reader: Typed, debug: bool = False) -> None:
                super().__init__(ctx, reader, debug)  # type: ignore[arg-type]
                reader.ctx = ctx

        def write(path: Path, text: str) -> None:
            outcome.written.setdefault(path.name, []).append(text)
            write_private(path, text)

        interactive.LineReader, interactive.Repl = Typed, WatchedRepl  # type: ignore[assignment,misc]
        archive.write_private = files.write_private = write
        outcome.run = lrqk("chat", "report.txt", "--model", self._model, *_FAST, on_terminal=True)
        return outcome

    # What has to be so afterwards.

    def _check(self, name: str, found: Outcome, *, can_read: bool, can_unlink: bool, rng: Random) -> None:
        """Check what came of a run, in a process that nothing fails around.

        Args:
            can_read: whether nothing failed but what writes, so that questions are answered.
            can_unlink: whether files could be removed.
        """
        code = found.run.code
        if can_read and name in ("chat", "ask"):
            assert code == 0, found.run
        if name == "chat" and code == 0:
            _check_lines(found.lines)
        if name.startswith("ask") and code == 0:
            assert json.loads(found.run.out)["answer"] == self._answer, found.run
        self._check_files(found, can_unlink=can_unlink)
        run_child(lambda: self._check_sessions(name, found))
        if name == "batch":
            again = self._in_child(self._batch)
            answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
            assert again.run.code == 0, again
            assert [line["prompt"] for line in answers] == [*_QUESTIONS], answers
        if rng.random() < 0.3:
            again = self._in_child(self._ask)
            assert json.loads(again.run.out)["answer"] == self._answer, again.run

    @property
    def _answer(self) -> object:
        return json.loads(self._expected.run.out)["answer"]

    def _check_files(self, found: Outcome, *, can_unlink: bool) -> None:
        for path in self._case.iterdir():
            if path.name.endswith(_PART):
                assert not can_unlink, path
            elif path.is_file() and path.name != "answers.jsonl":
                first = self._first / path.name
                texts = [first.read_text()] if first.exists() else []
                texts += found.written.get(path.name, ())
                assert path.read_text() in texts or path.name not in found.written, path
        for path in self._first.iterdir():
            assert (self._case / path.name).exists(), path

    def _check_sessions(self, name: str, found: Outcome) -> bytes:
        assert lrqk("sessions", "--json").code == 0
        store = SessionStore()
        sessions = {info.name: store.archive(info.name).entries for info in store.list()}
        first = talk(3).entries
        assert sessions["other"] == first
        stood = [first, *(line.after.entries for line in found.lines)]
        if name == "chat":
            assert all(entries in stood for entries in sessions.values()), (_brief(sessions), found.run)
            if found.run.code == 0 and not any(word in found.run.err for word in ("Error: ", "Warning: ")):
                assert found.lines[-1].after.entries in sessions.values(), (_brief(sessions), found.run)
        elif name == "ask in session":
            for entries in sessions.values():
                assert entries in ((), first) or isinstance(entries[-1], SavedExchange), entries
        elif name != "sessions":
            assert sessions["kept"] == first
        else:
            assert sessions.get("kept", sessions.get("renamed", first)) == first
        with store.open("next") as journal:
            journal.record(talk(2))
        assert store.archive("next") == talk(2)
        return b""


def _check_lines(lines: Sequence[Line]) -> None:
    """Check that each line did what it does, or nothing."""
    for before, line in pairwise(lines):
        old, new = before.after.entries, line.after.entries
        command = line.typed.split(" ")[0]
        assert "Unexpected" not in line.said, line
        if not line.typed.startswith("/"):
            changed = new[:-1] == old and isinstance(new[-1], SavedExchange)
        elif command == "/undo":
            changed = old[: len(new)] == new
        elif command == "/file":
            changed = new[: len(old)] == old
        else:
            changed = command in ("/load", "/drop", "/retry")
        assert changed or new == old, (old, line.typed, line.said, new)
        assert changed or line.typed.startswith("/"), (line.typed, line.said)
    assert lines[-1].typed == _LAST
    last = lines[-1].after.entries[-1]
    assert isinstance(last, SavedExchange)
    assert last.question == _LAST


def _brief(sessions: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    return {
        name: [getattr(entry, "question", None) or entry.title for entry in entries]
        for name, entries in sessions.items()
    }


def _talk(exchanges: int) -> Archive:
    return replace(talk(exchanges), generation=GenerationConfig(max_new_tokens=3))
