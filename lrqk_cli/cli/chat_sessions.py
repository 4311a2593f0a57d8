"""The session that ``lrqk chat`` begins or goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import typer

from lrqk_cli.cli import options
from lrqk_cli.cli.attention_options import AttentionChoices
from lrqk_cli.config import GenerationConfig
from lrqk_cli.errors import LrqkError, UsageError

if TYPE_CHECKING:
    from lrqk_cli.chat.chat_model import ChatModel, OpenChat
    from lrqk_cli.chat.chat_session import ChatSession
    from lrqk_cli.chat.protocols import DocumentLike
    from lrqk_cli.documents import Document
    from lrqk_cli.terminal.view import View

_GENERATION = {field.name for field in fields(GenerationConfig)}


@contextmanager
def opened(
    context: typer.Context,
    name: str | None,
    continues: bool,
    documents: Sequence[Document],
    *,
    keeps: bool,
    view: View,
) -> Iterator[ChatSession]:
    """Give the session of this chat, see ``open_chat_session``, and let go of it at the end."""
    from lrqk_cli.chat.chat_session import open_chat_session

    if (name or continues) and context.params["prompts_file"] is not None:
        raise UsageError(
            "A session is one conversation, and --prompts-file asks each question by itself.",
            "Leave one of them out, as a variable and in the config file too.",
        )
    title = documents[0].title if documents else None
    chat_session = open_chat_session(name, continues, title, keeps=keeps, warn=view.warn, note=view.note)
    for changed in chat_session.add(documents):
        view.note(f"{changed} has another text than before in this conversation, and is added as it is now.")
    try:
        yield chat_session
    finally:
        try:
            chat_session.close()
        except LrqkError as error:  # all turns are recorded already
            view.warn(error.message)


def go_on(
    context: typer.Context,
    chat_session: ChatSession,
    model: ChatModel,
    attention: AttentionChoices,
    system: str | None,
    generation: GenerationConfig,
) -> tuple[ChatModel, str | None, GenerationConfig]:
    """Return the model and the settings to go on with: those of the session, unless a flag names others.

    Raises:
        UsageError: a flag would not act beside them, or contradicts one.
    """
    saved = chat_session.saved
    if saved is None:
        if not context.params["endpoint"]:
            attention.refuse_idle()
        chat_session.wanted = model.wanted
        return model, system, generation
    attention = attention.going_on(saved.wanted)
    attention.refuse_idle()
    given = options.on_command_line(context, {"model", "system"} | _GENERATION)
    model = model.for_saved(saved, is_named="model" in given, wanted=attention.said)
    chat_session.wanted = model.wanted
    system = system if "system" in given else saved.system
    named = {field: getattr(generation, field) for field in _GENERATION & set(given)}
    generation = replace(saved.generation, **named)
    chat_session.saved = replace(saved, model=model.name, system=system, generation=generation)
    return model, system, generation


@contextmanager
def conversation(
    chat_session: ChatSession,
    model: ChatModel,
    system: str | None,
    generation: GenerationConfig,
    documents: Sequence[DocumentLike],
    view: View,
    questions: Sequence[str],
) -> Iterator[OpenChat]:
    """Open a conversation for questions of the command line, or the session's to go on with."""
    saved = chat_session.saved
    texts, said = (documents, []) if saved is None else (saved.documents, saved.said)
    with model.open(texts, system, generation, view, questions, said) as opened:
        if saved is not None:
            opened.resume(saved)
        yield opened
        if chat_session.name is not None:
            opened.session.keep_turns(chat_session.name)
