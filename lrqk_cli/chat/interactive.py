"""A chat on the terminal, from the first model to the last."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from lrqk_cli.chat.archive import SavedDocument
from lrqk_cli.chat.commands import COMMANDS
from lrqk_cli.chat.completion import ChatCompleter
from lrqk_cli.chat.console import print_failure
from lrqk_cli.chat.desk import Departure, Desk, ReadDocuments
from lrqk_cli.chat.echo import hidden_typing
from lrqk_cli.chat.line_reader import LineReader, open_history
from lrqk_cli.chat.opening import ModelRequest, OpenSession, open_session
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.chat.rendering import View
from lrqk_cli.chat.repl import Repl
from lrqk_cli.chat.toolbar import status_line
from lrqk_cli.config import GenerationConfig
from lrqk_cli.errors import LrqkError
from lrqk_cli.models.catalog import catalog


def converse(
    request: ModelRequest,
    documents: Sequence[DocumentLike],
    system: str | None,
    generation: GenerationConfig,
    view: View,
    read_documents: ReadDocuments,
    history: Path | None,
    sources: bool = False,
) -> None:
    """Hold a conversation until the user leaves, also over a change of the model.

    Args:
        request: the first model.
        documents: they stand before the first question.
        system: the system text.
        generation: how answers are drawn.
        view: on stderr.
        read_documents: for /file.
        history: where questions are remembered; None for nowhere.
        sources: note what answers rest on.

    Raises:
        LrqkError: the first model cannot be had, or the documents do not fit.
        KeyboardInterrupt: Ctrl-C was pressed twice while something was under way.
    """
    console = Console(highlight=False)
    remembered = open_history(history)
    departure = Departure(request.name)
    standing = request
    while departure.model is not None:
        asked, saved = replace(standing, name=departure.model), departure.archive
        if saved is not None:
            documents = [entry for entry in saved.entries if isinstance(entry, SavedDocument)]
            system, generation = saved.system, saved.generation
        with ExitStack() as stack:
            try:
                with hidden_typing():
                    opened = stack.enter_context(open_session(asked, documents, system, generation, view))
                    if saved is not None:
                        opened.session.adopt(saved.restore(opened.session.conversation.prompt))
            except LrqkError as error:
                if asked.name == standing.name:
                    raise
                print_failure(view.console, error.message, error.hint)
                view.note(f"The chat goes on with {standing.name}.")
                departure = replace(departure, model=standing.name)
                continue
            standing = asked
            opened.session.note_sources(sources)
            desk = _make_desk(opened, view, console, read_documents)
            reader = LineReader(
                remembered,
                ChatCompleter(COMMANDS, lambda: list(catalog())),
                lambda desk=desk: status_line(desk.session.status(), console.width, desk.model),  # type: ignore[misc]
            )
            departure = Repl(desk, reader).run()
            sources = desk.session.notes_sources


def _make_desk(opened: OpenSession, view: View, console: Console, read_documents: ReadDocuments) -> Desk:
    return Desk(
        session=opened.session,
        model=opened.model,
        settings=opened.settings,
        view=view,
        console=console,
        read_documents=read_documents,
        threads=opened.threads,
    )
