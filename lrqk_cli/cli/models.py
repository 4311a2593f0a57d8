"""``lrqk models``: what the catalog has and what is here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrqk_cli.cli import options
from lrqk_cli.cli.failures import warn_of_transformers
from lrqk_cli.errors import ModelError

if TYPE_CHECKING:
    from lrqk_cli.models.store import StoredModel

app = typer.Typer(name="models", help="List, fetch and remove models.")

Name = Annotated[str, typer.Argument(help="An alias of the catalog.", metavar="NAME", show_default=False)]


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List, fetch and remove models."""
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models(as_json: options.Json = False) -> None:
    """Show the models of the catalog and which of them are here."""
    from lrqk_cli.models import store

    stored = store.list_models()
    if as_json:
        from lrqk_cli.chat.report import to_json

        typer.echo(to_json([_describe(model) for model in stored]))
    else:
        _print_table(stored)


@app.command()
def pull(name: Name, quiet: options.Quiet = False) -> None:
    """Fetch a model, so that it works without a network."""
    from lrqk_cli.chat.console import stderr_console
    from lrqk_cli.chat.rendering import View
    from lrqk_cli.models import catalog, store

    warn_of_transformers()
    entry = catalog.find(name)
    with View(stderr_console(), quiet).pulling(name) as report:
        folder = store.pull(entry, report)
    typer.echo(folder)


@app.command()
def path(name: Name) -> None:
    """Print the folder of a model that is here."""
    from lrqk_cli.models import store

    folder = store.path(name)
    if folder is None:
        raise ModelError(f"The model '{name}' is not here.", f"Fetch it with: lrqk models pull {name}")
    typer.echo(folder)


@app.command()
def remove(name: Name) -> None:
    """Delete a model that is here."""
    from lrqk_cli.chat.rendering import format_bytes
    from lrqk_cli.models import store

    typer.echo(f"Removed {name}: {format_bytes(store.remove(name))} are free again.", err=True)


def _describe(model: StoredModel) -> dict[str, str | int | bool | None]:
    entry, folder = model.entry, model.path
    return {
        "name": entry.alias,
        "description": entry.description,
        "license": entry.license,
        "context": entry.context,
        "download_bytes": entry.size_bytes,
        "pulled": model.pulled,
        "path": str(folder) if isinstance(folder, Path) else None,
        "disk_bytes": model.size_bytes,
    }


def _print_table(stored: list[StoredModel]) -> None:
    from rich.table import Table

    from lrqk_cli.chat.console import stdout_console
    from lrqk_cli.chat.rendering import format_bytes

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("context", justify="right", no_wrap=True)
    table.add_column("download", justify="right", no_wrap=True)
    table.add_column("on disk", justify="right", no_wrap=True)
    table.add_column("description and license")
    for model in stored:
        entry = model.entry
        on_disk = format_bytes(model.size_bytes) + ("" if model.pulled else " (part)")
        table.add_row(
            entry.alias,
            f"{entry.context:,}",
            format_bytes(entry.size_bytes),
            on_disk if model.size_bytes else "-",
            f"{entry.description}. {entry.license}",
        )
    stdout_console().print(table)
