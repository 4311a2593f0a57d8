"""The reports of ``lrqk cache``, as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrqk_cli.memory.units import format_bytes
from lrqk_cli.terminal.moments import local_time, shown_time

if TYPE_CHECKING:
    from rich.console import Console

    from lrqk_cli.prefix_cache.entries import CacheEntry

# Titles in a row of the table.
_SHOWN_TITLES = 3


@dataclass(frozen=True, slots=True)
class CacheListing:
    """The entries of the cache; ``limit`` and ``total`` in bytes."""

    folder: Path
    limit: int
    total: int
    entries: tuple[CacheEntry, ...]

    def facts(self) -> dict[str, object]:
        """Return the fields of the JSON; sizes in bytes."""
        return {
            "folder": str(self.folder),
            "limit_bytes": self.limit,
            "total_bytes": self.total,
            "entries": [entry_facts(entry) for entry in self.entries],
        }


def entry_facts(entry: CacheEntry) -> dict[str, object]:
    """Return the fields of the JSON of an entry; sizes in bytes, the time in ISO 8601."""
    used = local_time(entry.used)
    return {
        "key": entry.key,
        "model": entry.label.model,
        "documents": [asdict(document) for document in entry.label.documents],
        "session": entry.label.session or None,
        "tokens": entry.tokens,
        "disk_bytes": entry.nbytes,
        "own_bytes": entry.own_bytes,
        "last_used": used and used.isoformat(timespec="seconds"),
        "is_damaged": entry.is_damaged,
    }


def titles(entry: CacheEntry) -> str:
    """Return the titles of an entry's documents in a few words."""
    if not entry.label.model and not entry.label.documents:
        return "unknown"
    named = [document.title or "untitled" for document in entry.label.documents]
    more = [f"{len(named) - _SHOWN_TITLES} more"] if len(named) > _SHOWN_TITLES else []
    shown = ", ".join([*named[:_SHOWN_TITLES], *more]) or "no documents"
    return f"{shown}, session {entry.label.session}" if entry.label.session else shown


def print_entries(report: CacheListing, console: Console) -> None:
    """Print a table of all entries, and the space they take."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("key", no_wrap=True)
    table.add_column("documents", overflow="fold")
    table.add_column("model", overflow="fold")
    for heading in ("tokens", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("last used", no_wrap=True)
    for entry in report.entries:
        table.add_row(
            entry.short_key,
            titles(entry) + " (damaged)" * entry.is_damaged,
            entry.label.model or "-",
            f"{entry.tokens:,}",
            format_bytes(entry.nbytes),
            shown_time(entry.used),
        )
    if report.entries:
        console.print(table)
    used = f"{format_bytes(report.total)} of at most {format_bytes(report.limit)}"
    console.print(f"{used} in {report.folder}", style="dim", soft_wrap=True)


def print_entry(entry: CacheEntry, console: Console) -> None:
    """Print an entry and its documents."""
    from rich.table import Table

    facts = {
        "Key": entry.key,
        "Model": entry.label.model or "-",
        "Tokens": f"{entry.tokens:,}",
        "Size": f"{format_bytes(entry.nbytes)}, of which {format_bytes(entry.own_bytes)} for it alone",
        "Last used": shown_time(entry.used),
    }
    if entry.is_damaged:
        facts["Damaged"] = f"yes; delete it with: lrqk cache remove {entry.short_key}"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table)
    documents = Table(box=None, pad_edge=False, header_style="bold")
    documents.add_column("document", overflow="fold")
    for heading in ("pages", "tokens"):
        documents.add_column(heading, justify="right", no_wrap=True)
    for document in entry.label.documents:
        documents.add_row(document.title or "untitled", f"{document.pages:,}", f"{document.tokens:,}")
    if entry.label.documents:
        console.print()
        console.print(documents)
