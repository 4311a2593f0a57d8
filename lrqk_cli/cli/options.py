"""The options that commands share.

Each option is read from its flag, else from the variable ``LRQK_<OPTION>``, else from the config file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lrqk_cli.cli.values import parse_bytes, parse_integer, parse_number, parse_tokens
from lrqk_cli.config import WeightChoice
from lrqk_cli.errors import UsageError
from lrqk_cli.naming import flag

if TYPE_CHECKING:
    from lrqk_cli.chat.keeping import CacheChoice

DType = Literal["auto", "float32", "bfloat16", "float16"]


def option(
    flag: str,
    help: str,
    metavar: str = "",
    parse: Callable[[Any], object] | None = None,
    *,
    panel: str | None,
    **settings: Any,
) -> Any:
    """Return an option that is also read from its environment variable.

    Args:
        flag: such as ``--top-k``, or ``--bell/--no-bell`` for a switch that is on by default.
        help: one line; panel: its heading in the help, None for that of ``--help``.
        metavar: the name of the value in the help; empty for a switch.
        parse: reads the value and raises ``UsageError``, which is then reported with the option's name.
        settings: further arguments of ``typer.Option``.
    """
    variable = "LRQK_" + flag.split("/")[0].lstrip("-").replace("-", "_").upper()
    if parse is not None:
        settings["parser"] = _named(parse)
    settings |= {"metavar": metavar, "envvar": variable, "show_envvar": False}
    return typer.Option(flag, help=help, rich_help_panel=panel, **settings)


def _named(parse: Callable[[Any], object]) -> Callable[[Any], object]:
    def parse_or_name(value: Any) -> object:
        try:
            return parse(value)
        except UsageError as error:
            raise typer.BadParameter(error.message) from error

    return parse_or_name


document_option = partial(option, panel="Documents")
model_option = partial(option, panel="Model")
output_option = partial(option, panel="Output")
memory_size = partial(option, metavar="SIZE", parse=parse_bytes, panel="Memory")


def _set_debug(context: typer.Context, debug: bool) -> bool:
    invocation = context.ensure_object(Invocation)
    invocation.debug |= debug
    invocation.context = context
    return debug


class Invocation:
    """The state of the whole run.

    Attributes:
        debug: show tracebacks.
        context: of the command, once it is known.
    """

    debug = False
    context: typer.Context | None = None


Debug = Annotated[
    bool,
    option("--debug", "Show the traceback of a failure.", panel=None, callback=_set_debug, is_eager=True),
]
Json = Annotated[bool, output_option("--json", "Print JSON instead of text.")]
Quiet = Annotated[bool, output_option("--quiet", "Show warnings and errors only, no progress or statistics.")]
ReadTimeout = Annotated[
    float,
    document_option(
        "--read-timeout",
        "Seconds that reading a file or a folder may take, and one more for each page read, 30 by OCR.",
        "SECONDS",
        parse_number,
    ),
]
ReadMemory = Annotated[
    int,
    document_option(
        "--read-memory",
        "Memory that reading a file or a folder may take, such as 4GiB. (default: 2GiB)",
        "SIZE",
        parse_bytes,
        show_default=False,
    ),
]
Model = Annotated[
    str,
    model_option(
        "--model", "An alias of 'lrqk models', a Hugging Face id, a folder or a .gguf file.", "MODEL"
    ),
]


def context_length(default: str) -> Any:
    """Return the option ``--ctx``; ``default`` describes its default."""
    return model_option(
        "--ctx", f"Context length in tokens, such as 64k. (default: {default})", "TOKENS", parse_tokens
    )


def data_type(automatic: str) -> Any:
    """Return the option ``--dtype``; ``automatic`` describes ``auto``."""
    return model_option(
        "--dtype",
        f"Data type of weights and KV cache: float32, bfloat16, float16, or auto, {automatic}.",
        "DTYPE",
    )


Context = Annotated[int | None, context_length("what the text needs")]
Device = Annotated[
    str | None,
    model_option(
        "--device", "Where to run: cuda, cuda:1, mps or cpu. (default: a GPU if there is one)", "DEVICE"
    ),
]
Threads = Annotated[
    int | None,
    model_option(
        "--threads",
        "CPU threads to compute with. (default: one a core, or what the container may use)",
        "N",
        parse_integer,
    ),
]
Dtype = Annotated[DType, data_type("which suits the device")]
Weights = Annotated[
    WeightChoice,
    model_option(
        "--weights",
        "Weights on a GPU. auto: those of a GGUF file as they are, others as finely as leaves room for "
        "the text. bf16: plain numbers, in --dtype. q8, q4: packed in 8 or 4 bits while loading.",
        "FORM",
    ),
]
OffloadWeights = Annotated[
    bool,
    model_option(
        "--offload-weights",
        "If the weights do not fit on the GPU, keep packed experts in CPU memory, where a step reads the "
        "chosen ones; in a chat, a model without them is spread over both memories, which is slow.",
    ),
]
Vram = Annotated[
    int | None,
    memory_size(
        "--vram",
        "GPU memory to use at most, such as 12GiB; settings are chosen to fit. (default: what is free)",
    ),
]
Ram = Annotated[
    int | None,
    memory_size(
        "--ram", "CPU memory to use at most, such as 32GiB. (default: seven eighths of what is free)"
    ),
]
CacheSize = Annotated[
    int | None,
    memory_size(
        "--cache-size",
        "Disk space for what the model computed for documents, such as 20GiB; the least recently used is "
        "deleted first. (default: a quarter of what is free)",
    ),
]
NoCache = Annotated[
    bool,
    option(
        "--no-cache",
        "Neither keep on the disk what the model computes for documents, nor use what is there.",
        panel="Memory",
    ),
]


def on_command_line(context: typer.Context, names: Collection[str]) -> list[str]:
    """Return the parameters on the command line, without variables, which may be for other commands."""
    sources = {name: context.get_parameter_source(name) for name in sorted(names)}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def refuse_without(context: typer.Context, names: Collection[str], missing: str) -> None:
    """Refuse options that have no effect.

    Args:
        missing: what they need.

    Raises:
        UsageError: there is one on the command line.
    """
    for name in on_command_line(context, names):
        raise UsageError(
            f"{flag(name)} has no meaning without {missing}.",
            f"Add {missing}, or leave {flag(name)} out.",
        )


def cache_choice(context: typer.Context, no_cache: bool, cache_size: int | None) -> CacheChoice:
    """Return whether documents are stored, by ``--no-cache`` and ``--cache-size``.

    Raises:
        UsageError: the size is on the command line, and nothing is stored.
    """
    from lrqk_cli.chat.keeping import CacheChoice

    if no_cache and on_command_line(context, {"cache_size"}):
        raise UsageError(
            "--no-cache stores nothing, and --cache-size limits it.",
            "Leave one of them out, as a variable and in the config file too.",
        )
    return CacheChoice(not no_cache, cache_size)


def pass_on(context: typer.Context, flags: Mapping[str, str], commands: Collection[str]) -> None:
    """Refuse options of a group of commands before the name of one of them, and pass on the config file's.

    Args:
        flags: parameter -> its option.
        commands: those for which the group's table of the config file is too.

    Raises:
        UsageError: there is an option on the command line.
    """
    for name in on_command_line(context, flags):
        raise UsageError(
            f"{flags[name]} before {context.invoked_subcommand} has no meaning.",
            f"Put it behind {context.invoked_subcommand} if it is for that, or leave it out.",
        )
    context.default_map = dict.fromkeys(commands, context.default_map or {})
