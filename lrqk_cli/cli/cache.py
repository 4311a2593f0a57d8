"""``lrqk cache``: what is kept on the disk of documents that were read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from lrqk_cli.cli import options
from lrqk_cli.cli.asking import agrees, say
from lrqk_cli.errors import LrqkError
from lrqk_cli.memory.units import format_bytes
from lrqk_cli.system_errors import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from lrqk_cli.prefix_cache.store import PrefixStore

app = typer.Typer(
    name="cache",
    help="List and delete what is kept of documents that were read, so that they need not be read again.",
)

_UNCONFIRMED = "Deleting everything must be confirmed, and this is no terminal."
_NAMING = "The first letters of a key, at least 4, or the title of a document."
Name = Annotated[str, typer.Argument(help=_NAMING, metavar="NAME", show_default=False)]
Names = Annotated[list[str], typer.Argument(help=_NAMING, metavar="NAME", show_default=False)]
Yes = Annotated[bool, options.option("--yes", help="Do not ask.", panel="Options", metavar="")]


@app.callback(invoke_without_command=True)
def cache(
    context: typer.Context, cache_size: options.CacheSize = None, as_json: options.Json = False
) -> None:
    """Show the documents that are kept on the disk as the model has read them; or delete some."""
    if context.invoked_subcommand is None:
        list_entries(cache_size, as_json)
        return
    flags = {"cache_size": "--cache-size", "as_json": "--json"}
    options.pass_on(context, flags, ("list", "show", "prune"))


@app.command("list")
def list_entries(cache_size: options.CacheSize = None, as_json: options.Json = False) -> None:
    """Show what is kept, and how much space it takes."""
    from lrqk_cli.cli.cache_view import CacheListing, print_entries
    from lrqk_cli.prefix_cache.entries import entries

    with _open(cache_size) as store:
        report = CacheListing(store.folder, store.limit, store.size(), tuple(entries(store)))
    if as_json:
        from lrqk_cli.chat.printable import to_json

        typer.echo(to_json(report.facts(), indent=2))
    else:
        from lrqk_cli.terminal.console import stdout_console

        print_entries(report, stdout_console())


@app.command()
def show(name: Name, as_json: options.Json = False) -> None:
    """Show an entry: its documents, with pages and tokens, and its size."""
    from lrqk_cli.cli.cache_view import entry_facts, print_entry
    from lrqk_cli.prefix_cache.entries import find

    with _open() as store:
        entry = find(store, name)
    if as_json:
        from lrqk_cli.chat.printable import to_json

        typer.echo(to_json(entry_facts(entry), indent=2))
    else:
        from lrqk_cli.terminal.console import stdout_console

        print_entry(entry, stdout_console())


@app.command()
def remove(names: Names) -> None:
    """Delete entries. What another entry needs too stays."""
    from lrqk_cli.cli.cache_view import titles
    from lrqk_cli.prefix_cache import entries

    with _open() as store:
        # A wrong name deletes nothing.
        found = {entry.key: entry for entry in (entries.find(store, name) for name in names)}
        for entry in found.values():
            freed = entries.remove(store, entry)
            if entry.key in {left.key for left in entries.entries(store)}:
                raise _not_deleted(store.folder)
            say(f"Removed {entry.short_key} ({titles(entry)}): {format_bytes(freed)} are free again.")


@app.command()
def prune(cache_size: options.CacheSize = None) -> None:
    """Delete what cannot be used any more, and the least recently used above the limit."""
    with _open(cache_size) as store:
        freed = store.prune()
        size, limit = store.size(), store.limit
    used = f"{format_bytes(size)} of at most {format_bytes(limit)}"
    say(f"{format_bytes(freed)} are free again; {used} are used.")
    if size > limit:
        raise _not_deleted(store.folder)


@app.command()
def clear(yes: Yes = False) -> None:
    """Delete everything that is kept of documents."""
    with _open() as store:
        size = store.size()
    if not size:
        say("The cache is empty.")
        return
    if not (yes or agrees(f"Delete {format_bytes(size)} in {store.folder}?", _UNCONFIRMED)):
        say("Nothing was deleted.")
        return
    with _open() as store:
        freed = store.clear()
        is_empty = not store.size()
    say(f"{format_bytes(freed)} are free again.")
    if not is_empty:
        raise _not_deleted(store.folder)


@contextmanager
def _open(limit: int | None = None) -> Iterator[PrefixStore]:
    """Give the store; what its folder refuses is told in a sentence."""
    from lrqk_cli.chat.document_cache import document_cache

    store = document_cache(limit)
    try:
        yield store
    except OSError as error:
        raise LrqkError(
            f"The cache in {store.folder} cannot be read: {reason_of(error)}.",
            "Check its permissions, or set LRQK_CACHE_DIR to another folder.",
        ) from error


def _not_deleted(folder: Path) -> LrqkError:
    return LrqkError(
        f"Some files in {folder} cannot be deleted.",
        "End other lrqk processes that use them, or check the folder's permissions.",
    )
