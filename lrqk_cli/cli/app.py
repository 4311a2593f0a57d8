"""The ``lrqk`` command: registers the commands and turns failures into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NoReturn

import typer

from lrqk_cli import __version__
from lrqk_cli.cli import bench, cache, chat, info, models, serve, sessions
from lrqk_cli.cli.failures import EXIT_INTERRUPTED, EndingSignals, open_streams, report
from lrqk_cli.cli.options import Debug, Invocation
from lrqk_cli.cli.settings import config_path, load_defaults, unread_variables
from lrqk_cli.memory.allocator import expand_segments
from lrqk_cli.models.threads import wait_asleep
from lrqk_cli.terminal.console import escape_unknown_characters, print_message, stderr_console
from lrqk_cli.terminal.echo import restored_modes

app = typer.Typer(
    name="lrqk",
    help="Chat with long documents on your own machine, with the whole text in the model's context.",
    epilog=(
        "Every option can also be set by the variable LRQK_<OPTION>, such as LRQK_MODEL, or in the config "
        "file, which LRQK_CONFIG names."
    ),
    pretty_exceptions_enable=False,
)
app.command()(chat.chat)
app.command()(serve.serve)
app.command()(bench.bench)
app.command()(info.info)
app.add_typer(models.app)
app.add_typer(cache.app)
app.add_typer(sessions.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lrqk {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool,
        typer.Option(
            "--version", help="Show the version.", metavar="", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Chat with long documents on your own machine, with the whole text in the model's context."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
    commands = getattr(context.command, "commands", {})
    for warning in unread_variables(_variables(context.command)):
        print_message(stderr_console(), "Warning", "yellow", warning)
    options = {name: _option_names(command.params) for name, command in commands.items()}
    context.default_map = load_defaults(config_path(), options)
    for name, defaults in context.default_map.items():
        for parameter in commands[name].params:
            # The config file may give a single text where the option takes a list.
            if getattr(parameter, "multiple", False) and isinstance(defaults.get(parameter.name), str):
                defaults[parameter.name] = [defaults[parameter.name]]


def _variables(command: Any) -> Iterator[str]:
    """Yield the variables of the options of a command, and of those below it."""
    yield from (parameter.envvar for parameter in command.params if parameter.envvar)
    for below in getattr(command, "commands", {}).values():
        yield from _variables(below)


def _option_names(parameters: Iterable[Any]) -> dict[str, str]:
    """Return the config file's name of each option -> click's name."""
    options = (parameter for parameter in parameters if parameter.param_type_name == "option")
    names = {parameter.opts[-1].lstrip("-"): parameter.name for parameter in options}
    return {option: name for option, name in names.items() if option not in ("help", "debug")}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; the one place where a failure becomes an exit code.

    Args:
        arguments: the words after ``lrqk``; those of ``sys.argv`` if None.
    """
    open_streams()
    escape_unknown_characters()
    expand_segments()
    wait_asleep()
    invocation = Invocation()
    with EndingSignals() as signals, restored_modes():
        try:
            # Outside click's standalone mode an early typer.Exit is returned as its code.
            code = app(args=arguments, prog_name="lrqk", standalone_mode=False, obj=invocation) or 0
            if code == EXIT_INTERRUPTED:
                code = report(KeyboardInterrupt(), invocation)
            sys.stdout.flush()
        except Exception as error:
            code = report(signals.raised or error, invocation)
        except (KeyboardInterrupt, SystemExit) as error:
            code = report(error, invocation)
    sys.exit(code)
