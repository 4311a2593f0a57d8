"""``lrqk bench``: speed, memory and quality of this machine, model and settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from lrqk_cli.cli import method, options, suites
from lrqk_cli.cli.values import parse_integer, parse_tokens
from lrqk_cli.config import AlsConfig, AttentionMode, LrqkConfig, default_top_k
from lrqk_cli.errors import UsageError
from lrqk_cli.models.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrqk_cli.bench.report import Report
    from lrqk_cli.chat.rendering import View

Output = Literal["table", "md", "json", "csv"]
Suite = Literal["speed", "ruler", "fidelity"]

# Options that only some suites have, by the names of their parameters.
_SUITE_OPTIONS: dict[Suite, frozenset[str]] = {
    "speed": frozenset({"new_tokens", "repeat", "text"}),
    "fidelity": frozenset({"new_tokens", "text", "samples"}),
    "ruler": frozenset({"tasks", "samples", "haystack", "qa_data", "seed"}),
}
_MEASURE = "Measurement"
_SETTINGS = LrqkConfig()

SuiteName = Annotated[
    Suite,
    options.option(
        "--suite",
        help="speed; fidelity: distance from full attention; ruler: the 13 tasks of RULER, scored.",
        panel=_MEASURE,
        metavar="SUITE",
    ),
]
Contexts = Annotated[
    str,
    options.option("--ctx", help="Context lengths, such as 4k,16k.", panel=_MEASURE, metavar="TOKENS,…"),
]
Modes = Annotated[
    str | None,
    options.option(
        "--modes",
        help="Modes to compare: lrqk, dense, offload; for fidelity lrqk, resident (its noise), paper.",
        panel=_MEASURE,
        metavar="MODE,…",
    ),
]
NewTokens = Annotated[
    int,
    options.option(
        "--new-tokens",
        help="speed, fidelity: decode steps after a prefill.",
        panel=_MEASURE,
        parse=parse_tokens,
        metavar="N",
    ),
]
Repeat = Annotated[
    int,
    options.option(
        "--repeat", help="speed: runs of each figure.", panel=_MEASURE, parse=parse_integer, metavar="N"
    ),
]
Text = Annotated[
    Path | None,
    options.option(
        "--text",
        help="speed, fidelity: text to measure on. (default: made-up sentences, easier than prose)",
        panel=_MEASURE,
        metavar="PATH",
    ),
]
Tasks = Annotated[
    str,
    options.option(
        "--tasks",
        help="ruler: tasks, such as niah_single_1,vt,cwe, or all.",
        panel=_MEASURE,
        metavar="TASK,…",
    ),
]
Samples = Annotated[
    int,
    options.option(
        "--samples", help="fidelity, ruler: prompts a task.", panel=_MEASURE, parse=parse_integer, metavar="N"
    ),
]
Haystack = Annotated[
    Path | None,
    options.option(
        "--haystack",
        help="ruler: text to hide needles in. (default: made-up sentences)",
        panel=_MEASURE,
        metavar="PATH",
    ),
]
QaData = Annotated[
    list[Path],
    options.option(
        "--qa-data",
        help="ruler: questions in SQuAD's form (qa_1) or HotpotQA's (qa_2). Repeat it for both.",
        panel=_MEASURE,
        metavar="PATH",
    ),
]
Seed = Annotated[
    int,
    options.option(
        "--seed",
        help="ruler: another one gives other prompts.",
        panel=_MEASURE,
        parse=parse_integer,
        metavar="N",
    ),
]
Format = Annotated[
    Output,
    options.option("--output", help="table, md, json or csv.", panel=options.OUTPUT, metavar="FORMAT"),
]


def bench(
    context: typer.Context,
    suite: SuiteName = "speed",
    ctx: Contexts = "4k",
    modes: Modes = None,
    new_tokens: NewTokens = 128,
    repeat: Repeat = 3,
    text: Text = None,
    tasks: Tasks = "all",
    samples: Samples = 10,
    haystack: Haystack = None,
    qa_data: QaData = [],  # noqa: B006 - click copies it
    seed: Seed = 0,
    model: options.Model = DEFAULT_MODEL,
    rank: options.Rank = _SETTINGS.rank,
    index_bits: options.IndexBits = _SETTINGS.index_bits,
    hot: options.Hot = _SETTINGS.hot,
    top_k: options.TopK = None,
    recent: options.Recent = _SETTINGS.recent,
    tail: options.Tail = _SETTINGS.tail,
    segment: options.Segment = _SETTINGS.segment,
    solver: method.Solver = _SETTINGS.solver,
    grouping: method.Grouping = _SETTINGS.grouping,
    hot_policy: method.Policy = _SETTINGS.hot_policy,
    als_init: method.Init = _SETTINGS.als.init,
    als_iterations: method.Iterations = _SETTINGS.als.iterations,
    als_tolerance: method.Tolerance = _SETTINGS.als.tolerance,
    als_penalties: method.Penalties = _SETTINGS.als.penalties,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    output: Format = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Measure prefill, decode, memory and misses, or the quality of answers, beside full attention."""
    _refuse_options_of_other_suites(context, suite)
    als = AlsConfig(als_init, als_iterations, als_tolerance, als_penalties)
    demanded = top_k or default_top_k(hot)
    settings = LrqkConfig(
        "lrqk", rank, index_bits, hot, demanded, recent, tail, segment, solver, grouping, hot_policy, als
    )
    contexts = tuple(parse_tokens(part) for part in ctx.split(","))
    wanted = _modes(suite, modes)
    if suite == "ruler":
        measure = suites.ruler(contexts, wanted, tasks, samples, haystack, qa_data, seed)
    elif suite == "fidelity":
        measure = suites.fidelity(contexts, wanted, new_tokens, samples, text)
    else:
        measure = suites.speed(contexts, wanted, new_tokens, repeat, text)

    from lrqk_cli.bench import report
    from lrqk_cli.chat.console import stderr_console
    from lrqk_cli.chat.opening import load_model, reserved_context
    from lrqk_cli.chat.rendering import View

    view = View(stderr_console(), quiet)
    loaded = load_model(model, device, None if dtype == "auto" else dtype, False, view)
    reserved_context(max(contexts), loaded.spec)
    with _progress(view) as on_progress:
        measured = measure(loaded, settings, on_progress)
    if output == "table":
        _print_table(measured)
        return
    write = {"json": report.to_json, "csv": report.to_csv, "md": report.to_markdown}[output]
    typer.echo(write(report.environment(loaded.device, loaded.dtype, model), settings, measured))


def _refuse_options_of_other_suites(context: typer.Context, suite: Suite) -> None:
    """An option that is given and would not act is an error; a variable may be meant for other commands."""
    for name in frozenset().union(*_SUITE_OPTIONS.values()) - _SUITE_OPTIONS[suite]:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            owners = " or ".join(other for other, names in _SUITE_OPTIONS.items() if name in names)
            raise UsageError(
                f"--{name.replace('_', '-')} has no meaning for --suite {suite}.",
                f"Leave it out, or choose --suite {owners}.",
            )


def _modes(suite: Suite, names: str | None) -> tuple[str, ...]:
    """The modes that were asked for, or those that the suite compares by default."""
    known = ("lrqk", "resident", "paper") if suite == "fidelity" else get_args(AttentionMode)
    default = {"speed": known, "ruler": ("lrqk", "dense"), "fidelity": ("lrqk", "resident")}[suite]
    chosen = tuple(name.strip() for name in names.split(",")) if names else default
    for name in chosen:
        if name not in known:
            raise UsageError(f"--suite {suite} has no mode '{name}'.", f"Choose from {', '.join(known)}.")
    return chosen


@contextmanager
def _progress(view: View) -> Iterator[Callable[[str], None]]:
    with view.console.status("Measuring") if view.is_live else nullcontext() as status:
        yield (lambda _: None) if status is None else status.update


def _print_table(measured: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(measured.table.columns):
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    for line in measured.table.lines:
        table.add_row(*line)
    console = Console(highlight=False)
    console.print(table)
    for note in measured.notes:
        console.print(note, markup=False)
