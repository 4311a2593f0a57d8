"""Draws a conversation as a picture of a terminal: questions, answers and their sources."""

from __future__ import annotations

import io
import re

from rich.console import Console
from rich.text import Text

from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Exchange
from lrqk_cli.chat.export import ENDINGS, name_document
from lrqk_cli.chat.printable import printable
from lrqk_cli.terminal.console import CleanConsole
from lrqk_cli.terminal.markdown import parsed
from lrqk_cli.terminal.sources_view import sources_view

_COLUMNS = 100
# Rich adds these rules, which make a viewer of the picture fetch a font from the network.
_REMOTE_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def to_svg(conversation: Conversation, model: str) -> str:
    """Return a self-contained SVG; see ``export`` for the other formats."""
    console = CleanConsole(
        file=io.StringIO(), record=True, width=_COLUMNS, force_terminal=True, color_system="truecolor",
        no_color=False, legacy_windows=False,
    )  # fmt: skip
    for number, entry in enumerate(conversation.entries):
        if number:
            console.print()
        if isinstance(entry, DocumentEntry):
            console.print(Text(name_document(entry), style="dim"))
        elif isinstance(entry, Exchange):
            console.print(Text(f"> {entry.question}", style="bold"))
            _print_answer(console, entry)
    return _REMOTE_FONT.sub("", console.export_svg(title=printable(f"lrqk chat · {model}")))


def _print_answer(console: Console, exchange: Exchange) -> None:
    if exchange.answer is not None:
        console.print(parsed(printable(exchange.answer.text.strip())))
        if ending := ENDINGS.get(exchange.answer.finish_reason):
            console.print(Text(ending, style="dim"))
    if exchange.sources is not None:
        console.print()
        console.print(sources_view(exchange.sources, console))
