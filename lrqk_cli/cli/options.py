"""The options that commands share.

Each option is read from its flag, else from the variable ``LRQK_<OPTION>``, else from the config file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from lrqk_cli.cli.values import parse_bytes, parse_integer, parse_number, parse_tokens
from lrqk_cli.config import AttentionMode, LrqkConfig, TailMode, WeightChoice
from lrqk_cli.errors import UsageError

DType = Literal["auto", "float32", "bfloat16", "float16"]
AttentionChoice = Literal["auto", AttentionMode]

DOCUMENTS = "Documents"
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
Json = Annotated[bool, option("--json", help="Print JSON instead of text.", panel=OUTPUT, metavar="")]
Quiet = Annotated[
    bool,
    option(
        "--quiet", help="Show warnings and errors only, no progress or statistics.", panel=OUTPUT, metavar=""
    ),
]
ReadTimeout = Annotated[
    float,
    option(
        "--read-timeout",
        help="Seconds that reading a file or a folder may take, and one more for each page read.",
        panel=DOCUMENTS,
        parse=parse_number,
        metavar="SECONDS",
    ),
]
ReadMemory = Annotated[
    int,
    option(
        "--read-memory",
        help="Memory that reading a file or a folder may take, such as 4GiB. (default: 2GiB)",
        panel=DOCUMENTS,
        parse=parse_bytes,
        metavar="SIZE",
        show_default=False,
    ),
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


def context_length(default: str) -> Any:
    """The option ``--ctx``, with its default in words."""
    return option(
        "--ctx",
        help=f"Context length in tokens, such as 64k. (default: {default})",
        panel=MODEL,
        parse=parse_tokens,
        metavar="TOKENS",
    )


def data_type(automatic: str) -> Any:
    """The option ``--dtype``, with what ``auto`` means in words."""
    return option(
        "--dtype",
        help=f"Data type of weights and KV cache: float32, bfloat16, float16, or auto, {automatic}.",
        panel=MODEL,
        metavar="DTYPE",
    )


Context = Annotated[int | None, context_length("what the text needs")]
Device = Annotated[
    str | None,
    option(
        "--device",
        help="Where to run: cuda, cuda:1, mps or cpu. (default: a GPU if there is one)",
        panel=MODEL,
        metavar="DEVICE",
    ),
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
Dtype = Annotated[DType, data_type("which suits the device")]
Weights = Annotated[
    WeightChoice,
    option(
        "--weights",
        help="Weights on a GPU. auto: those of a GGUF file as they are, others as finely as leaves room for "
        "the text. bf16: plain numbers, in --dtype. q8, q4: packed in 8 or 4 bits while loading.",
        panel=MODEL,
        metavar="FORM",
    ),
]
Attention = Annotated[
    AttentionChoice,
    option(
        "--attention",
        help="auto: dense if it fits on the GPU and is not slow, else lrqk; on a CPU lrqk. dense: full "
        "attention, KV cache on the GPU. offload: full attention, KV cache streamed from CPU memory.",
        panel=ATTENTION,
        metavar="MODE",
    ),
]
Rank = Annotated[
    int,
    option("--rank", help="Rank of the index of keys.", panel=ATTENTION, parse=parse_integer, metavar="N"),
]
IndexBits = Annotated[
    Literal[4, 8, 16],
    option(
        "--index-bits",
        help="Bits of each number in the index.",
        panel=ATTENTION,
        parse=parse_integer,
        metavar="4|8|16",
    ),
]
Hot = Annotated[
    int,
    option(
        "--hot",
        help="Size of the hot set: KV rows kept on the GPU for each KV head. Fewer if memory is short.",
        panel=ATTENTION,
        parse=parse_tokens,
        metavar="ROWS",
    ),
]
TopK = Annotated[
    int | None,
    option(
        "--top-k",
        help="Highest-scoring rows that each step needs in the hot set; missing ones are fetched. "
        "(default: a quarter of --hot)",
        panel=ATTENTION,
        parse=parse_tokens,
        metavar="ROWS",
    ),
]
Recent = Annotated[
    int,
    option(
        "--recent",
        help="Most recent rows, always kept on the GPU as well.",
        panel=ATTENTION,
        parse=parse_tokens,
        metavar="ROWS",
    ),
]
Tail = Annotated[
    TailMode,
    option(
        "--tail",
        help="Rows outside the hot set: linear adds a prediction of what they contribute, mean adds the mean "
        "value, none leaves them out.",
        panel=ATTENTION,
        metavar="MODE",
    ),
]
Segment = Annotated[
    int | None,
    option(
        "--segment",
        help="Tokens in each step of prefill. (default: 8192, or fewer to fit; 512 on a CPU)",
        panel=ATTENTION,
        parse=parse_tokens,
        metavar="TOKENS",
    ),
]


def default_mode(attention: AttentionChoice) -> AttentionMode:
    """Return the mode that settings begin with; where it is ``auto``, the plan has the last word."""
    return LrqkConfig().attention if attention == "auto" else attention
