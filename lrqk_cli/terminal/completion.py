"""Completion with the Tab key: commands and their arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from lrqk_cli.chat.archive import saved_names
from lrqk_cli.chat.journal import SessionStore
from lrqk_cli.chat.printable import printable
from lrqk_cli.config import THINK_WORDS, TailMode
from lrqk_cli.errors import LrqkError
from lrqk_cli.terminal.commands.registry import Registry
from lrqk_cli.terminal.commands.settings import HOT_SET, SAMPLING


class ChatCompleter(Completer):
    """Completes commands by name, then paths, settings or models.

    Args:
        models: returns the names of models; called when they are needed.
    """

    def __init__(self, commands: Registry, models: Callable[[], Sequence[str]]) -> None:
        self._commands = commands
        self._models = models
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """See ``Completer``."""
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        name, blank, argument = text.partition(" ")
        if not blank:
            yield from _beginning_with(name, [command.name for command in self._commands])
            return
        command = self._commands.get(name)
        kind = command.argument if command is not None else "none"
        if kind in ("path", "saved"):
            if kind == "saved":
                yield from _beginning_with(argument, _names())
            word = argument.rpartition(" ")[2]
            for path in self._paths.get_completions(Document(word, len(word)), complete_event):
                yield Completion(path.text, path.start_position, printable(path.display_text))
        elif kind == "setting":
            setting, blank, value = argument.partition(" ")
            if not blank:
                yield from _beginning_with(setting, (*SAMPLING, *HOT_SET))
            elif setting == "tail":
                yield from _beginning_with(value, get_args(TailMode))
            elif setting == "think":
                yield from _beginning_with(value, list(THINK_WORDS))
        elif kind == "model":
            yield from _beginning_with(argument, self._models())


def _names() -> list[str]:
    """Return the names of sessions, then of files of /save."""
    try:
        sessions = [info.name for info in SessionStore().list()]
    except LrqkError:
        sessions = []
    return [*sessions, *saved_names()]


def _beginning_with(start: str, words: Iterable[str]) -> Iterable[Completion]:
    return (Completion(word, -len(start), printable(word)) for word in words if word.startswith(start))
