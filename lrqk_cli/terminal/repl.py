"""The interactive loop of questions, commands and answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, closing

from lrqk_cli.chat.events import Answer, Message, ReasoningDelta, TextDelta
from lrqk_cli.chat.summary import sources_line
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import LrqkError
from lrqk_cli.terminal.command_context import ChatEvent, ChatExit, CommandContext
from lrqk_cli.terminal.commands import COMMANDS
from lrqk_cli.terminal.commands.registry import is_command
from lrqk_cli.terminal.commands.settings import IN_A_CHAT
from lrqk_cli.terminal.console import print_failure, print_traceback, print_unexpected
from lrqk_cli.terminal.echo import hidden_typing
from lrqk_cli.terminal.interrupts import Interrupts, LeaveAtOnce
from lrqk_cli.terminal.line_reader import LineReader
from lrqk_cli.terminal.markdown import MarkdownStream
from lrqk_cli.terminal.streaming import (
    DeltaStream,
    PlainReasoning,
    PlainStream,
    ReasoningRows,
    StatusStream,
    TextStream,
)
from lrqk_cli.terminal.toolbar import status_line

_UNEXPECTED_HINT = "The conversation is as it was before. Please report this. `debug` shows more of it."
_STOPPED = "The answer was stopped. What is here of it stays in the conversation."
_STOPPED_BEFORE = "Stopped before the answer began."
_STOPPED_READING = "Stopped. The rest is read with your next question."
_STOPPING = "Stopping after this step. Press Ctrl-C again to leave at once."


class Repl:
    """Questions and answers until the user leaves.

    Args:
        ctx: the state of the commands; the loop sets its ``show``, ``cancelled`` and ``view.surface``.
        reader: reads the input lines.
        debug: show the traceback of an unexpected failure.
    """

    def __init__(self, ctx: CommandContext, reader: LineReader, debug: bool = False) -> None:
        self._ctx = ctx
        self._reader = reader
        self._debug = debug
        self._interrupts = Interrupts(self._tell_stopping)
        ctx.view.surface = IN_A_CHAT
        ctx.show = self.show
        ctx.cancelled = self._interrupts

    def run(self, continues: bool = False) -> ChatExit:
        """Read the documents, then answer until /quit or Ctrl-D; return how the chat ended.

        A failure after the reading does not end the loop.

        Args:
            continues: the conversation began earlier, so a failed reading does not end the loop either.

        Raises:
            Exception: the reading failed; a ContextLengthError if the documents do not fit.
            LeaveAtOnce: Ctrl-C was pressed twice during one operation.
        """
        with self._interrupts.put_off():
            return self._run(continues)

    def _run(self, continues: bool) -> ChatExit:
        ctx, view = self._ctx, self._ctx.view
        if continues:
            self._succeeds(self._read)
        else:
            self._read()
        view.note("Ask a question. /help lists the commands, Ctrl-D leaves.")
        while ctx.chat_exit is None:
            draft, ctx.draft = ctx.draft, None
            try:
                with self._interrupts.reading(self._reader.clear):
                    line = self._reader.read(draft.text if draft is not None else "")
            except KeyboardInterrupt:
                continue
            if line is None:
                return ChatExit()
            if line.strip():
                self._act(line, replaces=draft is not None and draft.replaces)
        return ctx.chat_exit

    def show(self, events: Generator[ChatEvent, None, None]) -> None:
        """Show the events of a session until they end; Ctrl-C stops them and keeps the answer so far."""
        began = time.monotonic()
        streams = DeltaStream(self._new_reasoning, self._new_stream)
        has_ended = False
        with closing(events), self._interrupts, hidden_typing(), ExitStack() as bar, streams:
            update = None
            for event in events:
                if isinstance(event, PrefillProgress):
                    if update is None:
                        update = bar.enter_context(self._ctx.view.prefilling("Reading", self.status))
                        self._ctx.session.watch_reading(update)
                    update(event)
                elif isinstance(event, ReasoningDelta | TextDelta):
                    bar.close()
                    streams.add(event)
                elif isinstance(event, Message):
                    self._ctx.view.tell(event)
                else:
                    bar.close()
                    streams.close()
                    has_ended = True
                    self._tell_end(event)
                    if event.sources is not None and (line := sources_line(event.sources)):
                        self._ctx.view.note(line)
        if not self._interrupts():
            self._ctx.view.ring(time.monotonic() - began)
        elif not has_ended and self._ctx.session.unread:
            self._ctx.view.note(_STOPPED_READING)

    def _tell_end(self, answer: Answer) -> None:
        view = self._ctx.view
        if answer.finish_reason != "interrupted":
            view.statistics(answer)
        elif answer.new_tokens or answer.reasoning:
            view.note(_STOPPED)
            view.statistics(answer)
        else:
            view.note(_STOPPED_BEFORE)

    def status(self, width: int) -> str:
        """Return the status line for a width in columns."""
        if self._interrupts():
            return _STOPPING[:width]
        return status_line(self._ctx.session.status(), width, self._ctx.model)

    def _read(self) -> None:
        self.show(self._ctx.session.read(self._interrupts))

    def _act(self, line: str, *, replaces: bool) -> None:
        """Run a line as a command or question; if it fails, restore conversation and settings."""
        ctx = self._ctx

        def do() -> None:
            if is_command(line):
                with self._interrupts.raised():
                    COMMANDS.dispatch(line, ctx)
                return
            if replaces:
                ctx.session.undo()
            self.show(ctx.session.ask(line, self._interrupts))

        restore = ctx.checkpoint()
        if not self._succeeds(do):
            self._succeeds(restore)
        self._succeeds(ctx.record)

    def _succeeds(self, do: Callable[[], None]) -> bool:
        """Call ``do``; print its failure or interrupt, and return whether it succeeded."""
        console = self._ctx.view.console
        try:
            do()
        except LeaveAtOnce:
            raise
        except KeyboardInterrupt:
            self._ctx.view.note("Interrupted. The conversation is as it was before.")
        except LrqkError as error:
            print_failure(console, error.message, error.hint, self._ctx.view.surface)
        except Exception as error:
            if self._debug:
                print_traceback(console, error)
            print_unexpected(console, error, _UNEXPECTED_HINT, self._ctx.view.surface)
        else:
            return True
        return False

    def _new_stream(self) -> AbstractContextManager[TextStream]:
        console = self._ctx.console
        if console.is_dumb_terminal:
            return PlainStream()
        stream = StatusStream if console.no_color else MarkdownStream
        return stream(console, self.status)

    def _new_reasoning(self) -> AbstractContextManager[TextStream]:
        console = self._ctx.console
        if console.is_dumb_terminal:
            return PlainReasoning(console)
        return StatusStream(console, self.status, ReasoningRows(console))

    def _tell_stopping(self) -> None:
        # On other terminals the status line says so, and a note would break its frames.
        if self._ctx.console.is_dumb_terminal:
            self._ctx.view.note(_STOPPING)
