"""The interactive loop."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from prompt_toolkit import PromptSession
from prompt_toolkit.history import InMemoryHistory
from rich.console import Console

from lrqk_cli.chat.commands import dispatch, is_command
from lrqk_cli.chat.console import print_failure
from lrqk_cli.chat.events import Answer, Notice, TextDelta
from lrqk_cli.chat.interrupts import Interrupts
from lrqk_cli.chat.rendering import View, status_line
from lrqk_cli.chat.session import Session
from lrqk_cli.chat.streaming import StatusStream
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import ContextLengthError

ChatEvent = PrefillProgress | Notice | TextDelta | Answer


class Repl:
    """Questions and answers until the user leaves.

    Args:
        session: the conversation.
        view: for progress, notes and warnings on stderr.
        console: on stdout, which must be a terminal; answers go there.
    """

    def __init__(self, session: Session, view: View, console: Console) -> None:
        self._session = session
        self._view = view
        self._console = console
        self._line: PromptSession[str] = PromptSession(
            history=InMemoryHistory(), bottom_toolbar=lambda: self._status(console.width)
        )

    def run(self) -> None:
        """Read the documents, then answer until /quit or Ctrl-D.

        Raises:
            ContextLengthError: the documents do not fit.
            KeyboardInterrupt: Ctrl-C was pressed twice while something was under way.
        """
        with Interrupts(self._tell_stopping) as interrupts:
            self._show(self._session.read(interrupts))
            if interrupts():
                self._view.note("Stopped. The rest is read with your first question.")
        self._view.note("Ask a question. /help lists the commands, Ctrl-D leaves.")
        while (line := self._next_line()) is not None:
            if is_command(line):
                if not dispatch(line, self._console.print):
                    return
            elif line.strip():
                self._ask(line)

    def _next_line(self) -> str | None:
        """What the user typed; None to leave."""
        while True:
            try:
                return self._line.prompt("> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None

    def _ask(self, question: str) -> None:
        try:
            with Interrupts(self._tell_stopping) as interrupts:
                self._show(self._session.ask(question, interrupts))
        except ContextLengthError as error:
            print_failure(self._view.console, error.message, error.hint)

    def _show(self, events: Iterable[ChatEvent]) -> None:
        with ExitStack() as bar, ExitStack() as stream:
            update = None
            add = None
            for event in events:
                if isinstance(event, PrefillProgress):
                    update = update or bar.enter_context(self._view.prefilling("Reading", self._status))
                    update(event)
                elif isinstance(event, TextDelta):
                    bar.close()
                    add = add or stream.enter_context(StatusStream(self._console, self._status)).add
                    add(event.text)
                elif isinstance(event, Notice):
                    self._view.warn(event.message)
                else:
                    bar.close()
                    stream.close()
                    self._view.statistics(event)

    def _status(self, width: int) -> str:
        return status_line(self._session.status(), width)

    def _tell_stopping(self) -> None:
        self._view.note("Stopping after this step. Press Ctrl-C again to leave at once.")
