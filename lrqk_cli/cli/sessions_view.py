"""The reports of ``lrqk sessions``, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from lrqk_cli.terminal.moments import local_time, shown_time

if TYPE_CHECKING:
    from rich.console import Console

    from lrqk_cli.chat.session_search import SearchHit
    from lrqk_cli.chat.session_table import SessionInfo

# Titles in a row of the table, and characters of a question above its snippet.
_SHOWN_TITLES, _SHOWN_QUESTION = 3, 100


def session_facts(info: SessionInfo) -> dict[str, object]:
    """Return the fields of the JSON of a session; times in ISO 8601."""
    return {**asdict(info), "created": _iso(info.created), "updated": _iso(info.updated)}


def hit_facts(hit: SearchHit) -> dict[str, object]:
    """Return the fields of the JSON of a search hit."""
    return asdict(hit)


def print_sessions(found: Sequence[SessionInfo], console: Console) -> None:
    """Print a table of sessions."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", overflow="fold")
    table.add_column("documents", overflow="fold")
    table.add_column("turns", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("last used", no_wrap=True)
    for info in found:
        table.add_row(
            info.name,
            _titles(info.documents),
            f"{info.exchanges:,}",
            _on_one_line(info.model),
            shown_time(info.updated),
        )
    console.print(table)


def print_hits(hits: Sequence[SearchHit], console: Console) -> None:
    """Print where each hit is, and the text around its words, which are bold on a terminal."""
    from rich.text import Text

    for hit in hits:
        where = f"{hit.session}, question {hit.exchange}" if hit.exchange else f"{hit.session}, document"
        question = _on_one_line(hit.question).strip()
        if len(question) > _SHOWN_QUESTION:
            question = question[:_SHOWN_QUESTION].rstrip() + "…"
        console.print(Text.assemble((where, "cyan"), f": {question}"), soft_wrap=True)
        if hit.exchange:
            snippet = Text("    ")
            for piece in hit.snippet:
                snippet.append(_on_one_line(piece.text), "bold" if piece.is_hit else "dim")
            console.print(snippet, soft_wrap=True)


def _titles(titles: Sequence[str]) -> str:
    named = [_on_one_line(title) or "untitled" for title in titles]
    more = [f"{len(named) - _SHOWN_TITLES} more"] if len(named) > _SHOWN_TITLES else []
    return ", ".join([*named[:_SHOWN_TITLES], *more]) or "-"


def _on_one_line(text: str) -> str:
    """Return a text with a blank for each line break and tab."""
    return "".join(" " if letter.isspace() else letter for letter in text)


def _iso(seconds: float) -> str | None:
    time = local_time(seconds)
    return time.isoformat(timespec="seconds") if time is not None else None
