"""A chat on the terminal, across changes of the model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from prompt_toolkit.history import History
from rich.console import Console

from lrqk_cli.chat import archive
from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.chat import Chat
from lrqk_cli.chat.chat_model import ChatModel, OpenChat
from lrqk_cli.chat.chat_session import ChatSession
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.config import GenerationConfig
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.terminal.command_context import ChatExit, CommandContext, ReadDocuments
from lrqk_cli.terminal.commands import COMMANDS
from lrqk_cli.terminal.completion import ChatCompleter
from lrqk_cli.terminal.console import print_failure, print_unexpected, stdout_console
from lrqk_cli.terminal.echo import hidden_typing
from lrqk_cli.terminal.line_reader import LineReader, open_history
from lrqk_cli.terminal.repl import Repl
from lrqk_cli.terminal.toolbar import status_line
from lrqk_cli.terminal.view import View


def converse(
    model: ChatModel,
    documents: Sequence[DocumentLike],
    system: str | None,
    generation: GenerationConfig,
    view: View,
    read_documents: ReadDocuments,
    limits: ReadLimits,
    history: Path | None,
    sources: bool = False,
    debug: bool = False,
    chat_session: ChatSession | None = None,
) -> None:
    """Hold a conversation until the user leaves, also across changes of the model.

    Args:
        model: the first model.
        documents: placed before the first question.
        read_documents: reads files for /file.
        limits: of the process that draws pages.
        history: the file of the question history; None for no file.
        sources: find the sources of answers.
        debug: show the traceback of an unexpected failure.
        chat_session: where the conversation is recorded, and gone on with; None for nowhere.

    Raises:
        LrqkError: the first model cannot be opened, or the documents do not fit.
        KeyboardInterrupt: Ctrl-C was pressed twice during one operation.
    """
    console = stdout_console()
    remembered = _open_history(history, view)
    chat_session = chat_session or ChatSession(None)
    chat_exit, said = ChatExit(model.name, chat_session.saved), list[str]()
    standing = model
    ctx: CommandContext | None = None
    while chat_exit.model is not None:
        asked, saved = standing.named(chat_exit.model), chat_exit.archive
        if saved is not None:
            documents, said = saved.documents, saved.said
            system, generation = saved.system, saved.generation
        with ExitStack() as stack:
            try:
                with hidden_typing():
                    opened = stack.enter_context(asked.open(documents, system, generation, view, said=said))
                    if saved is not None:
                        opened.resume(saved)
            except (Exception, KeyboardInterrupt) as error:
                if saved is None:
                    raise
                if asked.name == standing.name:
                    _rescue(saved, chat_session, view)
                    raise
                _tell(error, view)
                view.note(f"The chat goes on with {standing.name}.")
                chat_exit = replace(chat_exit, model=standing.name)
                continue
            standing = asked
            opened.session.note_sources(sources)
            ctx = _make_context(opened, standing, view, console, read_documents, limits, chat_session, ctx)
            ctx.record = partial(_record, ctx, opened, chat_session)
            reader = LineReader(
                remembered,
                ChatCompleter(COMMANDS, standing.choices),
                lambda ctx=ctx: status_line(ctx.session.status(), console.width, ctx.model),  # type: ignore[misc]
            )
            chat_exit = Repl(ctx, reader, debug).run(continues=saved is not None)
            sources = ctx.session.notes_sources
            if chat_exit.model is None and chat_session.name is not None:
                opened.session.keep_turns(chat_session.name)
                view.note(f"Recorded as {chat_session.name}. Go on with it: lrqk chat --continue")


def _open_history(path: Path | None, view: View) -> History:
    """Return the history of questions; one that is not kept, and a warning, where it cannot be kept."""
    try:
        return open_history(path)
    except UsageError as error:
        view.warn(error.message)
        return open_history(None)


def _make_context(
    opened: OpenChat,
    model: ChatModel,
    view: View,
    console: Console,
    read_documents: ReadDocuments,
    limits: ReadLimits,
    chat_session: ChatSession,
    before: CommandContext | None,
) -> CommandContext:
    """Return a context for a model; keep from ``before`` the state that does not depend on the model."""

    def check(name: str, saved: Archive, session: Chat) -> None:
        model.named(name).check(saved, session, view)

    return CommandContext(
        attention=str(model.wanted.get("attention", "auto")),
        session=opened.session,
        model=opened.model,
        view=view,
        console=console,
        read_documents=read_documents,
        look_up=check,
        limits=limits,
        pages=before.pages if before is not None else None,
        own_files=before.own_files if before is not None else frozenset(),
        threads=opened.threads,
        chat_session=chat_session,
        tokenizer_id=opened.tokenizer_id,
        endpoint=opened.endpoint,
    )


def _record(ctx: CommandContext, opened: OpenChat, chat_session: ChatSession) -> None:
    chat_session.record(replace(opened, model=ctx.model))


def _tell(error: BaseException, view: View) -> None:
    if isinstance(error, LrqkError):
        print_failure(view.console, error.message, error.hint, view.surface)
    elif isinstance(error, KeyboardInterrupt):
        view.note("Interrupted.")
    else:
        print_unexpected(view.console, error, "", view.surface)


def _rescue(saved: Archive, chat_session: ChatSession, view: View) -> None:
    """Save a conversation that no loaded model can continue, if it is not recorded."""
    if chat_session.name is not None:
        return
    name = time.strftime("unfinished-%Y-%m-%d-%H%M%S")
    archive.save(saved, archive.saved_path(name))
    view.warn(f"The conversation was saved: start again, and type /load {name}.")
