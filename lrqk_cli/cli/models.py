"""``lrqk models``: the catalog, the models on this disk, and the text that fits each."""

from __future__ import annotations

from typing import Annotated

import typer

from lrqk_cli.chat.printable import to_json
from lrqk_cli.cli import options
from lrqk_cli.cli.failures import warn_of_transformers
from lrqk_cli.errors import ModelError
from lrqk_cli.terminal.console import stderr_console, stdout_console

app = typer.Typer(name="models", help="List, fetch and remove models.")

Alias = Annotated[str, typer.Argument(help="An alias of the catalog.", metavar="NAME", show_default=False)]
Name = Annotated[
    str,
    typer.Argument(
        help="An alias of the catalog, a Hugging Face id, or owner/name:Q4_K_M for a GGUF file of one.",
        metavar="NAME",
        show_default=False,
    ),
]


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    vram: options.Vram = None,
    ram: options.Ram = None,
    as_json: options.Json = False,
) -> None:
    """Show models, which of them are here, and for how long a document each one fits; or fetch and remove."""
    if context.invoked_subcommand is None:
        list_models(vram, ram, as_json)
    else:
        flags = {"vram": "--vram", "ram": "--ram", "as_json": "--json"}
        options.pass_on(context, flags, ("list",))


@app.command("list")
def list_models(vram: options.Vram = None, ram: options.Ram = None, as_json: options.Json = False) -> None:
    """Show models, which of them are here, and for how long a document each one fits this machine."""
    from lrqk_cli.cli.shelf import print_shelf, shelf

    found = shelf(vram, ram)
    if as_json:
        typer.echo(to_json([row.facts() for row in found.models], indent=2))
    else:
        print_shelf(found, stdout_console())


@app.command()
def pull(name: Name, quiet: options.Quiet = False) -> None:
    """Fetch a model, so that it works without a network."""
    from lrqk_cli.models import files, loading
    from lrqk_cli.terminal.view import View

    warn_of_transformers()
    source = loading.resolve(name)
    with View(stderr_console(), quiet).pulling(name) as report:
        where = files.pull(source, report)
    typer.echo(where)


@app.command()
def path(name: Name) -> None:
    """Print where a model is that is here."""
    from lrqk_cli.models import fetch, loading, store

    source = loading.resolve(name)
    if source.kind == "hub":
        where = fetch.cached_repository(source.name)
    else:
        where = store.path(source.entry.alias) if source.entry is not None else source.path
    if where is None:
        raise ModelError(f"The model '{name}' is not here.", f"Fetch it with: lrqk models pull {name}")
    typer.echo(where)


@app.command()
def remove(name: Alias) -> None:
    """Delete a model that is here."""
    from lrqk_cli.memory.units import format_bytes
    from lrqk_cli.models import store

    typer.echo(f"Removed {name}: {format_bytes(store.remove(name))} are free again.", err=True)
