"""The options that commands share.

Each option is read from its flag, else from the variable ``LRQK_<OPTION>``, else from the config file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from lrqk_cli.cli.values import parse_integer, parse_tokens
from lrqk_cli.config import AttentionMode, TailMode
from lrqk_cli.errors import UsageError

DType = Literal["auto", "float32", "bfloat16", "float16"]

MODEL = "Model"
ATTENTION = "Attention"
OUTPUT = "Output"


def option(
    flag: str,
    *,
    help: str,
    panel: str,
    metavar: str | None = None,
    parse: Callable[[Any], object] | None = None,
    **settings: Any,
) -> Any:
    """An option and its environment variable.

    Args:
        flag: such as ``--top-k``, or ``--bell/--no-bell`` for a switch that is on by default.
        help: one line; panel: the heading under which it stands.
        metavar: how the help calls the value; empty for a switch.
        parse: reads the value and raises ``UsageError``, which is then reported with the option's name.
        settings: more for ``typer.Option``.
    """
    variable = "LRQK_" + flag.split("/")[0].lstrip("-").replace("-", "_").upper()
    if parse is not None:
        settings["parser"] = _named(parse)
    return typer.Option(
        flag,
        help=help,
        rich_help_panel=panel,
        metavar=metavar,
        envvar=variable,
        show_envvar=False,
        **settings,
    )


def _named(parse: Callable[[Any], object]) -> Callable[[Any], object]:
    def parse_or_name(value: Any) -> object:
        try:
            return parse(value)
        except UsageError as error:
            raise typer.BadParameter(error.message) from error

    return parse_or_name


def _set_debug(context: typer.Context, debug: bool) -> bool:
    context.ensure_object(Invocation).debug |= debug
    return debug


class Invocation:
    """What the whole run shares: ``debug`` shows tracebacks."""

    debug = False


Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show the traceback of a failure.",
        callback=_set_debug,
        is_eager=True,
        metavar="",
        envvar="LRQK_DEBUG",
        show_envvar=False,
    ),
]
Json = Annotated[bool, option("--json", help="Print one JSON object.", panel=OUTPUT, metavar="")]
Quiet = Annotated[
    bool, option("--quiet", help="No progress and no statistics, warnings only.", panel=OUTPUT, metavar="")
]
Model = Annotated[
    str,
    option(
        "--model",
        help="An alias of 'lrqk models', a Hugging Face id, a folder or a .gguf file.",
        panel=MODEL,
        metavar="MODEL",
    ),
]
Context = Annotated[
    int | None,
    option(
        "--ctx",
        help="Tokens of the context, such as 64k. (default: what the text needs; info: the model's limit)",
        panel=MODEL,
        parse=parse_tokens,
        metavar="TOKENS",
    ),
]
Device = Annotated[
    str | None,
    option("--device", help="Such as cuda, cuda:1 or cpu.", panel=MODEL, metavar="DEVICE"),
]
Threads = Annotated[
    int | None,
    option(
        "--threads",
        help="CPU threads to compute with. (default: one a core, or what the container may use)",
        panel=MODEL,
        parse=parse_integer,
        metavar="N",
    ),
]
Dtype = Annotated[
    DType,
    option(
        "--dtype", help="Weights as float32, bfloat16, float16; auto chooses.", panel=MODEL, metavar="DTYPE"
    ),
]
Attention = Annotated[
    AttentionMode,
    option(
        "--attention",
        help="lrqk; or a baseline: dense keeps all rows on the device, offload streams all from memory.",
        panel=ATTENTION,
        metavar="MODE",
    ),
]
Rank = Annotated[
    int, option("--rank", help="Width of the index.", panel=ATTENTION, parse=parse_integer, metavar="N")
]
IndexBits = Annotated[
    Literal[4, 8, 16],
    option(
        "--index-bits", help="Bits of an index entry.", panel=ATTENTION, parse=parse_integer, metavar="4|8|16"
    ),
]
Hot = Annotated[
    int,
    option(
        "--hot",
        help="Resident rows of a KV head, with --hot-policy sticky.",
        panel=ATTENTION,
        parse=parse_tokens,
        metavar="ROWS",
    ),
]
TopK = Annotated[
    int | None,
    option(
        "--top-k",
        help="Best rows that a step demands to be resident. (default: a quarter of --hot)",
        panel=ATTENTION,
        parse=parse_tokens,
        metavar="ROWS",
    ),
]
Recent = Annotated[
    int,
    option(
        "--recent",
        help="Newest rows, always resident.",
        panel=ATTENTION,
        parse=parse_tokens,
        metavar="ROWS",
    ),
]
Tail = Annotated[
    TailMode,
    option(
        "--tail",
        help="What the other rows add: linear predicts it, mean takes their mean value, none drops it.",
        panel=ATTENTION,
        metavar="MODE",
    ),
]
Segment = Annotated[
    int | None,
    option(
        "--segment",
        help="Tokens that are read at once. (default: 8192 or what fits, on a CPU 512)",
        panel=ATTENTION,
        parse=parse_tokens,
        metavar="TOKENS",
    ),
]
