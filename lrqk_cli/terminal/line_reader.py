"""Reads input lines from the terminal, with history and completion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application.current import get_app_session
from prompt_toolkit.completion import Completer
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from lrqk_cli.errors import UsageError
from lrqk_cli.system_errors import reason_of
from lrqk_cli.user_folders import user_folder

_QUOTES = '"""'
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


class _History(FileHistory):
    """A history that ignores failures, such as those of a full disk, so that the question is still asked."""

    def load_history_strings(self) -> Iterable[str]:
        """See ``FileHistory``."""
        try:
            return super().load_history_strings()
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        """See ``FileHistory``."""
        with suppress(OSError):
            super().store_string(string)


def history_path() -> Path:
    """Return the path of the question history."""
    return user_folder("state") / "history"


def open_history(path: Path | None) -> History:
    """Return a history in a file that only its owner can read, or in memory; follow no link.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise UsageError(
            f"The history of questions cannot be kept in {path}: {reason_of(error)}.", "Use --no-history."
        ) from error
    return _History(path)


def is_open_quote(text: str) -> bool:
    """Whether a text begins with triple quotes and does not close them."""
    text = text.lstrip()
    return text.startswith(_QUOTES) and _QUOTES not in text[len(_QUOTES) :]


def unquoted(text: str) -> str:
    """Return a text without triple quotes around it."""
    bare = text.strip()
    if bare.startswith(_QUOTES):
        bare = bare.removeprefix(_QUOTES).removesuffix(_QUOTES)
    return bare.strip("\n") if bare != text.strip() else text


class LineReader:
    """Reads questions and commands from the terminal.

    Args:
        history: earlier questions.
        completer: completes with the Tab key.
        toolbar: returns the text of the bottom line; None for no such line.
    """

    def __init__(self, history: History, completer: Completer, toolbar: Callable[[], str] | None) -> None:
        self._is_entered = False
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=completer,
            complete_while_typing=False,
            complete_style=CompleteStyle.MULTI_COLUMN,
            multiline=True,
            key_bindings=_bindings(self._note_enter),
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            prompt_continuation="  ",
            bottom_toolbar=toolbar,
        )

    def read(self, default: str = "") -> str | None:
        """Return the entered text; None at the end of input.

        Raises:
            KeyboardInterrupt: Ctrl-C cleared the line.
        """
        self._is_entered = False
        try:
            # Its own handler would have to be changed back, and Ctrl-C could come meanwhile.
            return unquoted(self._session.prompt("> ", default=default, handle_sigint=False))
        except EOFError:
            return None

    def clear(self) -> bool:
        """Clear the line that is being typed, from a signal handler; return false if it was entered."""
        app = self._session.app
        if not self._is_entered and app.loop is not None and app.is_running:
            app.loop.call_soon_threadsafe(app.key_processor.send_sigint)
        return not self._is_entered

    def _note_enter(self) -> None:
        self._is_entered = True


def keep_for_next_line(typed: str) -> None:
    """Give the next input line what was typed and has been read already."""
    keys: list[KeyPress] = []
    parser = Vt100Parser(keys.append)
    parser.feed_and_flush(typed)
    store_typeahead(get_app_session().input, keys)


def _bindings(on_enter: Callable[[], None]) -> KeyBindings:
    keys = KeyBindings()

    @Condition
    def is_finished() -> bool:
        from prompt_toolkit.application import get_app

        return not is_open_quote(get_app().current_buffer.text)

    @keys.add("enter", filter=is_finished)
    def _enter(event: KeyPressEvent) -> None:
        on_enter()
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys
