"""``lrqk sessions``: the chats that are kept turn by turn, and what was said in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lrqk_cli.cli import options
from lrqk_cli.cli.asking import agrees, say
from lrqk_cli.cli.values import parse_integer
from lrqk_cli.errors import UsageError

app = typer.Typer(name="sessions", help="List, show, search, export and delete the chats that are kept.")

_UNCONFIRMED = "Deleting sessions must be confirmed, and this is no terminal."
_NAMING = "The name of a session."
Name = Annotated[str, typer.Argument(help=_NAMING, metavar="NAME", show_default=False)]
Names = Annotated[list[str], typer.Argument(help=_NAMING, metavar="NAME", show_default=False)]
Old = Annotated[str, typer.Argument(help=_NAMING, metavar="OLD", show_default=False)]
New = Annotated[str, typer.Argument(help="Its new name.", metavar="NEW", show_default=False)]
File = Annotated[
    Path | None,
    typer.Argument(
        help="A .json file, which /load takes, or an .md file. (default: JSON on the standard output)",
        metavar="[FILE]",
        show_default=False,
    ),
]
Words = Annotated[
    list[str],
    typer.Argument(
        help="Words that an exchange or a title must all have; a phrase in quotes.",
        metavar="WORDS",
        show_default=False,
    ),
]
Limit = Annotated[int, options.output_option("--limit", "Show at most so many.", "N", parse_integer)]
Yes = Annotated[bool, options.option("--yes", help="Do not ask.", panel="Options", metavar="")]
Replace = Annotated[
    bool, options.option("--yes", help="Replace a file that is there.", panel="Options", metavar="")
]


@app.callback(invoke_without_command=True)
def sessions(context: typer.Context, as_json: options.Json = False) -> None:
    """Show the chats that are kept; or show, search, rename, export and delete some."""
    if context.invoked_subcommand is None:
        list_sessions(as_json)
        return
    options.pass_on(context, {"as_json": "--json"}, ("list", "show", "search"))


@app.command("list")
def list_sessions(as_json: options.Json = False) -> None:
    """Show the sessions, the last used first."""
    from lrqk_cli.chat.journal import SessionStore
    from lrqk_cli.cli.sessions_view import print_sessions, session_facts

    store = SessionStore()
    found = store.list()
    if as_json:
        _print_json({"path": str(store.path), "sessions": [session_facts(info) for info in found]})
    elif found:
        from lrqk_cli.terminal.console import stdout_console

        print_sessions(found, stdout_console())
    else:
        say("No session is kept. Begin one with: lrqk chat --session NAME")


@app.command()
def show(name: Name, as_json: options.Json = False) -> None:
    """Print what was said in a session, and which documents it has."""
    from lrqk_cli.chat.export import archive_messages, archive_to_markdown
    from lrqk_cli.chat.journal import SessionStore
    from lrqk_cli.cli.sessions_view import session_facts

    store = SessionStore()
    info, archive = store.find(name), store.archive(name)
    if as_json:
        messages = archive_messages(archive)
        _print_json({**session_facts(info), "system": archive.system, "messages": messages})
    else:
        typer.echo(archive_to_markdown(archive), nl=False)


@app.command()
def rename(old: Old, new: New) -> None:
    """Give a session another name."""
    from lrqk_cli.chat.journal import SessionStore

    SessionStore().rename(old, new)
    say(f"Renamed {old} to {new}.")


@app.command()
def remove(names: Names, yes: Yes = False) -> None:
    """Delete sessions, with all that was said in them."""
    from lrqk_cli.chat.journal import SessionStore

    store = SessionStore()
    # A wrong name deletes nothing.
    found = list(dict.fromkeys(store.find(name).name for name in names))
    if not (yes or agrees(f"Delete {', '.join(found)}?", _UNCONFIRMED)):
        say("Nothing was deleted.")
        return
    for name in found:
        store.remove(name)
        say(f"Removed {name}.")


@app.command()
def export(name: Name, file: File = None, replaces: Replace = False) -> None:
    """Write a session as JSON, with its documents, or as Markdown, by the ending of the file."""
    from lrqk_cli.chat.archive import archive_json
    from lrqk_cli.chat.export import archive_to_markdown
    from lrqk_cli.chat.journal import SessionStore
    from lrqk_cli.chat.private_files import write_private

    write = {".md": archive_to_markdown, ".json": archive_json}.get(
        file.suffix.lower() if file is not None else ".json"
    )
    if write is None:
        raise UsageError(f"{file} is neither a .json nor an .md file.", "Name it talk.md, for instance.")
    text = write(SessionStore().archive(name))
    if file is None:
        typer.echo(text, nl=False)
        return
    if not replaces and os.path.lexists(file):
        raise UsageError(f"{file} is there already.", "To replace it, add --yes.")
    write_private(file, text)
    say(f"Written to {file}.")


@app.command()
def search(words: Words, limit: Limit = 20, as_json: options.Json = False) -> None:
    """Find questions, answers and titles of documents, not the texts of documents."""
    from lrqk_cli.chat.journal import SessionStore
    from lrqk_cli.cli.sessions_view import hit_facts, print_hits

    if limit < 1:
        raise UsageError("--limit must be at least 1.", "Leave it out for the best 20.")
    hits = SessionStore().search(words, limit)
    if as_json:
        _print_json([hit_facts(hit) for hit in hits])
    elif hits:
        from lrqk_cli.terminal.console import stdout_console

        print_hits(hits, stdout_console())
    else:
        say("Nothing was found.")


def _print_json(value: object) -> None:
    from lrqk_cli.chat.printable import to_json

    typer.echo(to_json(value, indent=2))
