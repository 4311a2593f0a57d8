"""``lrqk bench``: speed, memory and quality of this machine, model and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lrqk_cli.bench.modes import acts_in, named_modes
from lrqk_cli.bench.suite import Suite, SuiteOptions
from lrqk_cli.cli import bench_options, options
from lrqk_cli.cli.attention_options import (
    ATTENTION_OPTIONS,
    AttentionChoices,
    setting_of,
    with_attention_options,
)
from lrqk_cli.cli.failures import warn_of_transformers
from lrqk_cli.cli.values import parse_names, parse_tokens
from lrqk_cli.cli.variations import parse_variations
from lrqk_cli.config import LrqkConfig, WeightChoice
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.errors import UsageError
from lrqk_cli.models.catalog import DEFAULT_MODEL
from lrqk_cli.terminal.console import print_message, stderr_console, stdout_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrqk_cli.bench.planning import BenchPlan
    from lrqk_cli.bench.report import Report
    from lrqk_cli.models.describe import Description
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.placement import Placement
    from lrqk_cli.models.shapes import RandomModel
    from lrqk_cli.terminal.view import View

_ASKED = SuiteOptions(contexts=())
_ANY_WIDTH = 10_000


@with_attention_options(without={"attention"})
def bench(
    context: typer.Context,
    *,
    suite: bench_options.SuiteOption = "speed",
    ctx: bench_options.Contexts = "4k",
    modes: bench_options.Modes = None,
    new_tokens: bench_options.NewTokens = _ASKED.new_tokens,
    repeat: bench_options.Repeat = _ASKED.repeat,
    memory_cap: bench_options.MemoryCap = None,
    vram: options.Vram = None,
    ram: options.Ram = None,
    text: bench_options.Text = None,
    tasks: bench_options.Tasks = None,
    samples: bench_options.Samples = _ASKED.samples,
    turns: bench_options.Turns = _ASKED.turns,
    vary: bench_options.Vary = [],  # noqa: B006 - click copies it
    layers: bench_options.Layers = False,
    haystack: bench_options.Haystack = None,
    qa_data: bench_options.QaData = [],  # noqa: B006 - click copies it
    seed: bench_options.Seed = _ASKED.seed,
    read_timeout: options.ReadTimeout = _ASKED.limits.timeout,
    read_memory: options.ReadMemory = _ASKED.limits.memory,
    model: options.Model = DEFAULT_MODEL,
    shape: bench_options.Shape = None,
    attention: AttentionChoices,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    weights: options.Weights = "auto",
    offload_weights: options.OffloadWeights = False,
    output: bench_options.Format = "table",
    plot: bench_options.Plot = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Measure speed and memory, or the quality of answers, in comparison with full attention."""
    warn_of_transformers()
    from lrqk_cli.bench.plot import check_plot
    from lrqk_cli.bench.suites import SUITES, refuse_idle
    from lrqk_cli.terminal.view import View

    given = frozenset(options.on_command_line(context, context.params.keys() - ATTENTION_OPTIONS))
    varied = partial(parse_variations, vary, top_k_follows="top_k" not in attention.said)
    variations = varied(attention.config)  # so that a wrong one fails at once
    refuse_idle(suite, given.union(attention.asked, (name.partition("=")[0] for name in variations)))
    asked = SuiteOptions(
        contexts=tuple(parse_tokens(part) for part in ctx.split(",")),
        modes=parse_names(modes),
        device=device,
        new_tokens=new_tokens,
        repeat=repeat,
        memory_cap=memory_cap,
        text=text,
        tasks=parse_names(tasks),
        samples=samples,
        turns=turns,
        layers=layers,
        haystack=haystack,
        qa_data=tuple(qa_data),
        seed=seed,
        limits=ReadLimits(read_timeout, read_memory),
        given=given,
    )
    chosen = SUITES[suite](asked)
    _refuse_idle(attention, chosen, variations)
    if plot is not None:
        check_plot(plot)
    shape = bench_options.chosen_shape(chosen, shape)
    number_format = None if dtype == "auto" else dtype
    target = _Target(model, shape, device, number_format, threads, weights, vram, ram, offload_weights)
    view = View(stderr_console(), quiet)
    loaded, planned = _plan_and_load(target, chosen, attention.said, view)
    planned = replace(planned, varied=varied(planned.config))
    with _progress(view) as on_progress:
        measured = chosen.measure(loaded, planned, on_progress)
    name = model if shape is None else f"{shape} (random weights)"
    _show(measured, planned.config, loaded, name, output, plot)


def _refuse_idle(attention: AttentionChoices, suite: Suite, variations: Mapping[str, LrqkConfig]) -> None:
    """Refuse an option on the command line that acts in nothing that is measured.

    Raises:
        UsageError: there is one.
    """
    base, longest = attention.config, max(suite.asked.contexts)
    measured = [*named_modes(suite.asked.modes, base, longest).values(), *variations.values()]
    for name in map(setting_of, attention.asked):
        if not acts_in(measured, base, name):
            attention.refuse_idle()
            raise UsageError(
                f"`{name}` does nothing in the modes that --modes names.",
                f"Add lrqk to --modes, or leave `{name}` out.",
            )


@dataclass(frozen=True, slots=True)
class _Target:
    """What to measure and where; a ``shape`` replaces the model; None is automatic or unlimited."""

    model: str
    shape: str | None
    device: str | None
    dtype: str | None
    threads: int | None
    weights: WeightChoice
    vram: int | None
    ram: int | None
    offload_weights: bool


def _plan_and_load(
    target: _Target, suite: Suite, wanted: Mapping[str, Any], view: View
) -> tuple[LoadedModel | RandomModel, BenchPlan]:
    """Choose settings, then load the model or draw its weights.

    Raises:
        OutOfMemoryError: none of the contexts fits.
    """
    name = target.shape or target.model
    with view.pulling(name) as report:
        # Imported while the bar is shown, because importing torch takes seconds.
        from lrqk_cli.chat.summary import plan_line
        from lrqk_cli.models import files, loading, shapes
        from lrqk_cli.models.describe import describe_shape, describe_source
        from lrqk_cli.models.threads import use_threads

        use_threads(target.threads)
        source = None if target.shape else files.fetched(loading.resolve(target.model), report)
        described = describe_source(source) if source else describe_shape(name)
        planned, placement = _plan(target, described, suite, wanted)
    view.note(plan_line(planned.plan))
    if source is None:
        longest = max(suite.asked.contexts) + suite.answer_tokens
        with view.pulling(name, "Drawing the weights of"):
            place, plan = (placement.device, placement.dtype), planned.plan
            return shapes.build(
                name, longest, *place, form=plan.form, experts_on_host=plan.has_experts_on_host
            ), planned
    with view.pulling(name, "Loading") as report:
        return loading.load(
            source,
            placement.device,
            placement.dtype,
            form=planned.plan.form,
            experts_on_host=planned.plan.has_experts_on_host,
            on_progress=report,
        ), planned


def _plan(
    target: _Target, described: Description, suite: Suite, wanted: Mapping[str, Any]
) -> tuple[BenchPlan, Placement]:
    from lrqk_cli.bench.planning import plan_bench
    from lrqk_cli.chat.opening import reserved_context
    from lrqk_cli.memory import machine
    from lrqk_cli.models.placement import find_placement

    seen = machine.detect_machine()  # before torch starts CUDA
    limits = target.vram, target.ram
    forms: dict[str, Any] = {"weights": target.weights, "may_offload": target.offload_weights}
    placement = find_placement(described, target.device, target.dtype, *limits, **forms)
    limit = described.spec.max_context
    if target.shape is None:
        reserved_context(max(suite.asked.contexts), described.spec)
    else:  # random weights have no limit
        limit = max(suite.asked.contexts) + suite.answer_tokens
    rooms = {context: min(context + suite.answer_tokens, limit) for context in suite.asked.contexts}
    planned = plan_bench(placement, rooms, suite.asked.modes, wanted)
    if placement.device.type != "cuda":
        return planned, placement
    capped = placement.budget.vram if target.vram is not None else None
    return replace(planned, vram=capped, free_before=seen.free if seen else None), placement


@contextmanager
def _progress(view: View) -> Iterator[Callable[[str], None]]:
    """Yield the function that shows progress: on a terminal in one line, else line by line."""
    if not view.is_live:
        yield view.note
        return
    with view.console.status("Measuring") as status:
        yield status.update


def _show(
    measured: Report,
    config: LrqkConfig,
    loaded: LoadedModel | RandomModel,
    model: str,
    output: bench_options.Output,
    plot: Path | None,
) -> None:
    """Print the results and draw the chart; then raise the exception that ended the run early, if any."""
    from lrqk_cli.bench import report
    from lrqk_cli.bench.environment import environment
    from lrqk_cli.bench.plot import write_plot

    if output == "table":
        _print_table(measured)
    else:
        write = {"json": report.to_json, "csv": report.to_csv, "md": report.to_markdown}[output]
        typer.echo(write(environment(loaded, model), config, measured))
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
    from rich.table import Table

    console = stdout_console()
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
        console.print(note, soft_wrap=not console.is_terminal)
