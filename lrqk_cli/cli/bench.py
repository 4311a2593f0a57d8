"""``lrqk bench``: speed and memory of this machine, model and settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from lrqk_cli.cli import options
from lrqk_cli.cli.values import parse_integer, parse_tokens
from lrqk_cli.config import AttentionMode, LrqkConfig
from lrqk_cli.errors import UsageError
from lrqk_cli.models.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrqk_cli.bench.speed import SpeedResult
    from lrqk_cli.chat.rendering import View

Output = Literal["table", "md", "json", "csv"]
_MEASURE = "Measurement"
_SETTINGS = LrqkConfig()

Contexts = Annotated[
    str,
    options.option("--ctx", help="Context lengths, such as 4k,16k.", panel=_MEASURE, metavar="TOKENS,…"),
]
Modes = Annotated[
    str,
    options.option("--modes", help="Attention modes to compare.", panel=_MEASURE, metavar="MODE,…"),
]
NewTokens = Annotated[
    int,
    options.option(
        "--new-tokens", help="Decode steps after a prefill.", panel=_MEASURE, parse=parse_tokens, metavar="N"
    ),
]
Repeat = Annotated[
    int,
    options.option("--repeat", help="Runs of each figure.", panel=_MEASURE, parse=parse_integer, metavar="N"),
]
Text = Annotated[
    Path | None,
    options.option(
        "--text",
        help="Measure on this text. (default: made-up sentences, whose miss rates are not those of prose)",
        panel=_MEASURE,
        metavar="PATH",
    ),
]
Format = Annotated[
    Output,
    options.option("--output", help="table, md, json or csv.", panel=options.OUTPUT, metavar="FORMAT"),
]


def bench(
    ctx: Contexts = "4k",
    modes: Modes = "lrqk,dense,offload",
    new_tokens: NewTokens = 128,
    repeat: Repeat = 3,
    text: Text = None,
    model: options.Model = DEFAULT_MODEL,
    rank: options.Rank = _SETTINGS.rank,
    index_bits: options.IndexBits = _SETTINGS.index_bits,
    hot: options.Hot = _SETTINGS.hot,
    top_k: options.TopK = _SETTINGS.top_k,
    recent: options.Recent = _SETTINGS.recent,
    tail: options.Tail = _SETTINGS.tail,
    segment: options.Segment = _SETTINGS.segment,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    output: Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Measure prefill, decode, memory and misses, with full attention beside them."""
    settings = LrqkConfig("lrqk", rank, index_bits, hot, top_k, recent, tail, segment)
    contexts = tuple(parse_tokens(part) for part in ctx.split(","))
    wanted = tuple(_mode(part.strip()) for part in modes.split(","))

    from lrqk_cli.bench import report, speed
    from lrqk_cli.chat.console import stderr_console
    from lrqk_cli.chat.opening import load_model, reserved_context
    from lrqk_cli.chat.rendering import View

    plan = speed.Plan(wanted, contexts, new_tokens, repeat)
    view = View(stderr_console(), quiet)
    loaded = load_model(model, device, None if dtype == "auto" else dtype, False, view)
    longest = reserved_context(max(contexts), loaded.spec)
    prompt = _prompt(text, loaded.tokenizer, longest)
    with _progress(view) as on_progress:
        results = list(speed.measure(loaded.model, loaded.spec, settings, plan, prompt, on_progress))
    if output == "json":
        typer.echo(report.to_json(report.environment(loaded.device, loaded.dtype, model), settings, results))
    elif output == "csv":
        typer.echo(report.to_csv(results))
    elif output == "md":
        typer.echo(report.to_markdown(results))
    else:
        _print_table(results)


def _mode(name: str) -> AttentionMode:
    if name not in get_args(AttentionMode):
        raise UsageError(f"There is no mode '{name}'.", f"Choose from {', '.join(get_args(AttentionMode))}.")
    return cast(AttentionMode, name)


def _prompt(text: Path | None, tokenizer: Any, count: int) -> list[int]:
    def encode(part: str) -> list[int]:
        return list(tokenizer.encode(part, add_special_tokens=False))

    if text is None:
        from lrqk_cli.bench.text import synthetic_tokens

        return synthetic_tokens(encode, count)
    from lrqk_cli.documents import read_documents

    tokens = [token for document in read_documents([text]) for token in encode(document.text)]
    if len(tokens) < count:
        raise UsageError(
            f"'{text}' has {len(tokens):,} tokens, and the longest context needs {count:,}.",
            "Give a longer text, or lower --ctx.",
        )
    return tokens[:count]


@contextmanager
def _progress(view: View) -> Iterator[Callable[[str], None]]:
    with view.console.status("Measuring") if view.is_live else nullcontext() as status:
        yield (lambda _: None) if status is None else status.update


def _print_table(results: list[SpeedResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lrqk_cli.bench import report

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(report.columns()):
        table.add_column(heading, justify="left" if number == 0 else "right")
    for result in results:
        table.add_row(*report.cells(result))
    Console(highlight=False).print(table)
