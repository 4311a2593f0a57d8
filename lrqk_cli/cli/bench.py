"""``lrqk bench``: speed, memory and quality of this machine, model and settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lrqk_cli.cli import measurement, method, options, suites
from lrqk_cli.cli.values import parse_tokens
from lrqk_cli.cli.variations import parse_variations
from lrqk_cli.config import AlsConfig, LrqkConfig, default_top_k
from lrqk_cli.errors import UsageError
from lrqk_cli.models.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrqk_cli.bench.report import Report
    from lrqk_cli.chat.rendering import View
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.shapes import RandomModel

_SETTINGS = LrqkConfig()
# All modes of a suite, and those that it compares by default.
_MODES: dict[measurement.Suite, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "speed": (
        ("lrqk", "dense", "dense-eager", "offload", "paper", "paper-no-hit-miss"),
        ("lrqk", "dense"),
    ),
    "fidelity": (("lrqk", "resident", "paper"), ("lrqk", "resident")),
    "ruler": (("lrqk", "resident", "paper", "dense", "offload"), ("lrqk", "dense")),
}
_ANY_WIDTH = 10_000


def bench(
    context: typer.Context,
    suite: measurement.SuiteName = "speed",
    ctx: measurement.Contexts = "4k",
    modes: measurement.Modes = None,
    new_tokens: measurement.NewTokens = 128,
    repeat: measurement.Repeat = 3,
    memory_cap: measurement.MemoryCap = None,
    text: measurement.Text = None,
    tasks: measurement.Tasks = None,
    samples: measurement.Samples = 10,
    turns: measurement.Turns = 1,
    vary: measurement.Vary = [],  # noqa: B006 - click copies it
    layers: measurement.Layers = False,
    haystack: measurement.Haystack = None,
    qa_data: measurement.QaData = [],  # noqa: B006 - click copies it
    seed: measurement.Seed = 0,
    model: options.Model = DEFAULT_MODEL,
    shape: measurement.Shape = None,
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
    output: measurement.Format = "table",
    plot: measurement.Plot = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Measure prefill, decode, memory and misses, or the quality of answers, beside full attention."""
    measurement.refuse_idle(context, suite, tasks)
    als = AlsConfig(als_init, als_iterations, als_tolerance, als_penalties)
    demanded = top_k or default_top_k(hot)
    settings = LrqkConfig(
        "lrqk", rank, index_bits, hot, demanded, recent, tail, segment, solver, grouping, hot_policy, als
    )
    variations = parse_variations(vary, settings, top_k_follows=top_k is None)
    asked = suites.Asked(tuple(parse_tokens(part) for part in ctx.split(",")), _modes(suite, modes), samples)
    prompts = suites.Prompts(text, haystack, tuple(qa_data), seed)
    if suite == "ruler":
        measure = suites.ruler(asked, variations, tasks or "all", prompts)
    elif suite == "fidelity":
        measure = suites.fidelity(asked, variations, tasks or "text", prompts, new_tokens, turns, layers)
    else:
        measure = suites.speed(asked, new_tokens, repeat, memory_cap, text)
    if plot is not None:
        _check_plot(plot)
    if memory_cap is not None and suite == "speed":
        _check_memory_cap(device, memory_cap)
    shape = measurement.chosen_shape(context, suite, shape)
    dtype_name = None if dtype == "auto" else dtype
    view = _view(quiet)
    longest = max(asked.contexts)
    loaded: LoadedModel | RandomModel
    if shape is None:
        loaded = _load_model(model, device, dtype_name, longest, view)
    else:
        loaded = _build_shape(shape, device, dtype_name, longest + 1 + new_tokens, view)
    with _progress(view) as on_progress:
        measured = measure(loaded, settings, on_progress)
    name = model if shape is None else f"{shape} (random weights)"
    _show(measured, settings, loaded, name, output, plot)


def _modes(suite: measurement.Suite, names: str | None) -> tuple[str, ...]:
    """The modes that were asked for, or those that the suite compares by default."""
    known, default = _MODES[suite]
    chosen = tuple(dict.fromkeys(name.strip() for name in names.split(","))) if names else default
    for name in chosen:
        if name not in known:
            raise UsageError(f"--suite {suite} has no mode '{name}'.", f"Choose from {', '.join(known)}.")
    return chosen


def _check_plot(path: Path) -> None:
    from lrqk_cli.bench.plot import check_plot

    check_plot(path)


def _check_memory_cap(device: str | None, size: int) -> None:
    from lrqk_cli.memory.cap import check_memory_cap
    from lrqk_cli.models.devices import choose_device

    check_memory_cap(choose_device(device), size)


def _view(quiet: bool) -> View:
    from lrqk_cli.chat.console import stderr_console
    from lrqk_cli.chat.rendering import View

    return View(stderr_console(), quiet)


def _load_model(model: str, device: str | None, dtype: str | None, context: int, view: View) -> LoadedModel:
    from lrqk_cli.chat.opening import load_model, reserved_context

    loaded = load_model(model, device, dtype, False, view)
    reserved_context(context, loaded.spec)
    return loaded


def _build_shape(shape: str, device: str | None, dtype: str | None, context: int, view: View) -> RandomModel:
    with view.pulling(shape, "Drawing the weights of"):
        # Within the bar, because importing torch takes seconds.
        from lrqk_cli.models import shapes
        from lrqk_cli.models.devices import choose_device, choose_dtype

        place = choose_device(device)
        return shapes.build(shape, context, place, choose_dtype(dtype, place))


@contextmanager
def _progress(view: View) -> Iterator[Callable[[str], None]]:
    """What tells of the progress: on a terminal in one line, else line by line."""
    if not view.is_live:
        yield view.note
        return
    with view.console.status("Measuring") as status:
        yield status.update


def _show(
    measured: Report,
    settings: LrqkConfig,
    loaded: LoadedModel | RandomModel,
    model: str,
    output: measurement.Output,
    plot: Path | None,
) -> None:
    """Print what has been measured, also where the run ended early; that is then raised."""
    from lrqk_cli.bench import report
    from lrqk_cli.bench.environment import environment
    from lrqk_cli.bench.plot import write_plot
    from lrqk_cli.chat.console import print_message, stderr_console

    if output == "table":
        _print_table(measured)
    else:
        write = {"json": report.to_json, "csv": report.to_csv, "md": report.to_markdown}[output]
        typer.echo(write(environment(loaded.device, loaded.dtype, model), settings, measured))
    if plot is not None and measured.chart is not None:
        if measured.chart.points:
            write_plot(measured.chart, plot)
        else:
            print_message(
                stderr_console(), "Warning", "yellow", f"No figures to draw: no '{plot}' was written."
            )
    if measured.ended_by is not None:
        raise measured.ended_by


def _print_table(measured: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:  # lines are broken at a terminal's width only
        console.width = _ANY_WIDTH
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for heading in measured.table.columns:
        words = heading.replace(" ", "\n") if console.is_terminal else heading
        whole = heading in ("task", "mode", "tokens/s")  # not broken where the terminal is narrow
        is_text = heading in ("task", "mode", "test")
        table.add_column(words, justify="left" if is_text else "right", no_wrap=whole, overflow="fold")
    for line in measured.table.lines:
        table.add_row(*line)
    console.print(table)
    for note in measured.notes:
        console.print(note, markup=False, soft_wrap=not console.is_terminal)
