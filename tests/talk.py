"""A chat whose lines are given: the loop, the commands and the documents are real, the engine is a fake."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fake_chat import FakeDocument, FakeEngine, new_session

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.chat import Chat
from lrqk_cli.chat.chat_model import OpenChat
from lrqk_cli.chat.chat_session import ChatSession
from lrqk_cli.documents import Document, PageSelection, read_documents
from lrqk_cli.documents.locations import Location
from lrqk_cli.errors import DocumentError
from lrqk_cli.models.loading import resolve
from lrqk_cli.terminal.command_context import ChatExit, CommandContext
from lrqk_cli.terminal.console import CleanConsole
from lrqk_cli.terminal.repl import Repl
from lrqk_cli.terminal.view import View


@dataclass
class Script:
    """Reads lines from a list; a function in it is called between two lines."""

    lines: Sequence[str | Callable[[], object]]
    drafts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = iter(self.lines)

    def read(self, default: str = "") -> str | None:
        self.drafts.append(default)
        for line in self._left:
            if isinstance(line, str):
                return line
            line()
        return None

    def clear(self) -> bool:
        return False


class Talk:
    """A chat of several goes; what was said before stays."""

    def __init__(
        self,
        engine: FakeEngine | None = None,
        *,
        terminal: bool = False,
        chat_session: ChatSession | None = None,
    ) -> None:
        self.engine = engine or FakeEngine()
        self.err, self.out = io.StringIO(), io.StringIO()
        self.ctx = CommandContext(
            session=new_session(self.engine, [FakeDocument("a.pdf", ["one", "two"])]),
            model="tiny",
            view=View(CleanConsole(file=self.err, width=200, force_terminal=terminal)),
            console=CleanConsole(file=self.out, width=80, force_terminal=True),
            read_documents=_read,
            look_up=_look_up,
            chat_session=chat_session or ChatSession(None),
        )
        self.ctx.record = self._record

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.ctx.chat_session.close()

    def _record(self) -> None:
        opened = OpenChat(self.ctx.session, self.ctx.model, None, 0.0, None, lambda: None)
        self.ctx.chat_session.record(opened)

    def say(self, *lines: str | Callable[[], object]) -> str:
        """Type lines, then Ctrl-D; return what was shown on stderr."""
        self.err.seek(0)
        self.err.truncate()
        self.script = Script(lines)
        self.chat_exit: ChatExit = Repl(self.ctx, self.script).run()  # type: ignore[arg-type]
        return self.err.getvalue()

    @property
    def questions(self) -> list[str]:
        return [exchange.question for exchange in self.ctx.session.conversation.exchanges]

    @property
    def titles(self) -> list[str]:
        return [use.title for use in self.ctx.session.documents]


def _read(paths: Sequence[Location], pages: PageSelection | None) -> list[Document]:
    if any(isinstance(path, Path) and path.is_dir() for path in paths):
        raise DocumentError("Tests read no folders: there is no telling what is in them.", "Name a file.")
    return read_documents(paths, pages=pages)


def _look_up(model: str, _saved: Archive, _session: Chat) -> None:
    resolve(model)
