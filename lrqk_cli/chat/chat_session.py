"""A chat and its session: begun or gone on with, and recorded after each turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrqk_cli.chat.archive import Archive, make_archive, saved_document
from lrqk_cli.chat.journal import Journal, SessionStore
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.chat.session_database import DamagedSessionsError
from lrqk_cli.chat.session_names import session_name
from lrqk_cli.errors import LrqkError, UsageError

if TYPE_CHECKING:
    from lrqk_cli.chat.chat_model import OpenChat


class ChatSession:
    """The session of one chat, across changes of its model.

    Args:
        journal: what is recorded; None records nothing until the conversation gets a name.
        is_named: whether the user chose its name.

    Attributes:
        saved: the conversation to go on with; None for a new one.
        wanted: the settings that the user set for it, by field of ``LrqkConfig``.
    """

    def __init__(self, journal: Journal | None, *, is_named: bool = False) -> None:
        self._journal = journal
        self._is_named = is_named
        self._has_recorded = False
        self.saved: Archive | None = journal.archive() if journal is not None else None
        self.wanted: Mapping[str, Any] = {}

    @property
    def name(self) -> str | None:
        """The name of the session if something of it is on the disk."""
        is_there = self._has_recorded or self.saved is not None
        return self._journal.name if self._journal is not None and is_there else None

    def add(self, documents: Sequence[DocumentLike]) -> list[str]:
        """Append the documents that the saved conversation does not have, by their texts.

        Returns:
            The titles of those that it has with another text.
        """
        if self.saved is None:
            return []
        known = self.saved.documents
        texts, paths = [document.parts for document in known], {document.path for document in known}
        entries = [saved_document(document) for document in documents]
        new = [entry for entry in entries if entry.parts not in texts]
        self.saved = replace(self.saved, entries=(*self.saved.entries, *new))
        return [entry.title for entry in new if entry.path in paths]

    def record(self, opened: OpenChat) -> None:
        """Record a conversation as it stands; nothing before its first question.

        Raises:
            LrqkError: it cannot be written.
        """
        session = opened.session
        if self._journal is None or not (session.conversation.exchanges or self.name):
            return
        generation, tokenizer = session.generation, opened.tokenizer_id()
        settings = generation, session.config, tokenizer, opened.endpoint, self.wanted
        self._journal.record(make_archive(session.conversation, opened.model, *settings))
        self._has_recorded = True

    def save_as(self, name: str, archive: Archive, *, replaces: bool = False) -> str:
        """Record a conversation under a name from now on; return the name.

        The session so far stays as it is if the user gave it its name; otherwise it goes.

        Args:
            replaces: take the place of another session of that name.

        Raises:
            UsageError: the name is none, or there is such a session.
            LrqkError: it cannot be written, or another process has it open; nothing has changed.
        """
        name, store = session_name(name), SessionStore()
        if self._journal is not None and self._journal.name == name:
            self._journal.record(archive)
            self._has_recorded = self._is_named = True
            return name
        before, was_named = self._journal, self._is_named
        with self._going_on_in(store.open(name, fresh=not replaces)) as journal:
            journal.record(archive)
        if before is not None and not was_named:
            with suppress(LrqkError):  # it is not there if nothing was recorded
                store.remove(before.name)
        return name

    @contextmanager
    def switching(self, name: str) -> Iterator[Archive]:
        """Give a session's conversation to go on with; at the end, if nothing fails, this chat records there.

        Raises:
            UsageError: there is no such session, or this is it.
            LrqkError: another process has it open, or it cannot be read.
        """
        store = SessionStore()
        name = store.find(name).name
        if self._journal is not None and self._journal.name == name:
            raise UsageError(f"This is the session '{name}'.", "See what there is with /load alone.")
        with self._going_on_in(store.open(name)) as journal:
            archive = journal.archive()
            if archive is None:
                raise UsageError(f"There is no session '{name}'.", "See what there is with /load alone.")
            yield archive

    @contextmanager
    def beginning(self, title: str | None) -> Iterator[None]:
        """Record another conversation in a session of its own, at the end, if nothing fails.

        The session so far stays as it is. A chat that records nothing still does not.

        Args:
            title: of the first document, for its name.

        Raises:
            LrqkError: no session can be begun.
        """
        if self._journal is None:
            yield
            return
        with self._going_on_in(SessionStore().open(title=title), is_new=True):
            yield

    @contextmanager
    def _going_on_in(self, journal: Journal, *, is_new: bool = False) -> Iterator[Journal]:
        """Record there from the end of this context on, if nothing fails in it; otherwise let go of it."""
        try:
            yield journal
        except BaseException:
            journal.close()
            raise
        before, self._journal = self._journal, journal
        self._has_recorded = self._is_named = not is_new
        if is_new:
            self.saved = None
        if before is not None:
            # All turns are recorded already. Whatever fails now, Ctrl-C included, must not let the chat go
            # back to its conversation, which would then be recorded in place of the other one.
            with suppress(Exception, KeyboardInterrupt):
                before.close()

    def close(self) -> None:
        """Let other processes go on with the session."""
        if self._journal is not None:
            self._journal.close()


def open_chat_session(
    name: str | None,
    continues: bool,
    title: str | None,
    *,
    keeps: bool,
    warn: Callable[[str], None],
    note: Callable[[str], None],
) -> ChatSession:
    """Return the session of a chat.

    Args:
        name: of the session, which is begun if it is not there; None without a name.
        continues: go on with the session that was changed last.
        title: of the first document, for the name of a new session.
        keeps: record a chat without a name too.
        warn: tells of a failure to do so, which does not end the chat.
        note: offers the last session, if a new one begins.

    Raises:
        UsageError: there is no session to go on with, or the name is none.
        LrqkError: another process has it open, or the database cannot be used.
    """
    if name is not None and continues:
        raise UsageError("`session` and `continue` were both given.", "Choose one of them.")
    if name is None and not continues and not keeps:
        return ChatSession(None)
    store = SessionStore()
    try:
        _repair(store, warn)
    except LrqkError:
        if name is not None or continues:
            raise
    if continues:
        newest = store.newest()
        if newest is None:
            raise UsageError("There is no session to continue.", "Begin one: lrqk chat report.pdf")
        name = newest.name
    if name is not None:
        return ChatSession(store.open(name), is_named=True)
    try:
        newest = store.newest()
        begun = ChatSession(store.open(title=title))
        if newest is not None:
            note(f"To go on with the last conversation ({newest.name}) instead: lrqk chat --continue")
        return begun
    except LrqkError as error:
        warn(f"This chat is not recorded: {error.message}")
        return ChatSession(None)


def _repair(store: SessionStore, warn: Callable[[str], None]) -> None:
    """Move a damaged database aside, and keep what can be read of it."""
    try:
        store.list()
    except DamagedSessionsError:
        warn(store.recover().message)
