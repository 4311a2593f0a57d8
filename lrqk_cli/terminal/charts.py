"""The statistics and charts of /stats."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lrqk_cli.memory.units import format_bytes
from lrqk_cli.telemetry.history import StepHistory
from lrqk_cli.telemetry.stats import DecodeTotals
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.toolbar import device_memory

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-~=+*#"
_CHART_COLUMNS = 60


def sparkline(values: Sequence[float], levels: str) -> str:
    """Draw each value as one character, scaled from 0 to the largest value."""
    top = max(values, default=0.0)
    if not top:
        return levels[0] * len(values)
    return "".join(levels[round(value / top * (len(levels) - 1))] for value in values)


def levels_for(console: Console) -> str:
    """Return the characters with which this terminal can draw a chart."""
    return _ASCII if console.is_dumb_terminal or not console.encoding.startswith("utf") else _BLOCKS


def miss_chart(history: StepHistory, columns: int, levels: str) -> str:
    """Draw the miss rate over all steps, in at most ``columns`` columns."""
    readings = history.readings
    size = -(-len(readings) // columns) if readings else 1
    rates = []
    for start in range(0, len(readings), size):
        span = DecodeTotals()
        for reading in readings[start : start + size]:
            span.add(reading)
        rates.append(span.miss_rate)
    return f"{sparkline(rates, levels)}  up to {max(rates, default=0.0):.1%}"


def statistics_view(ctx: CommandContext) -> RenderableType:
    """Return the context, the memory and the counters of the decode steps so far."""
    status, history = ctx.session.status(), ctx.session.history
    levels = levels_for(ctx.view.console)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    memory, totals = status.memory, history.totals
    most = f" of {status.context:,}" if status.context is not None else ""
    table.add_row("model", ctx.model)
    table.add_row("context", f"{status.used:,}{most} tokens, {ctx.session.unread:,} to be read")
    if memory is not None:
        noun = "thread" if ctx.threads == 1 else "threads"
        threads = f", {ctx.threads} {noun}" if ctx.threads and memory.device == "cpu" else ""
        peak = format_bytes(memory.peak_device_bytes)
        table.add_row(memory.device, f"{device_memory(memory)}, peak {peak}{threads}")
        held = {"weights": memory.weight_bytes, "index": memory.index_bytes, "hot rows": memory.hot_bytes}
        table.add_row("", ", ".join(f"{name} {format_bytes(size)}" for name, size in held.items()))
        table.add_row("host", f"KV rows {format_bytes(memory.host_kv_bytes)}")
    if not totals.steps:
        return Group(table, Text("No token has been decoded yet."))
    table.add_row("decoded", f"{totals.steps:,} steps at {totals.tokens_per_second:.1f} tokens/s")
    if totals.drafts_offered:
        share = totals.drafts_accepted / totals.drafts_offered
        table.add_row(
            "lookup", f"{totals.drafts_accepted:,} of {totals.drafts_offered:,} drafts ({share:.0%})"
        )
    if totals.rows_wanted:
        fetched = f"{totals.rows_fetched_per_step:.1f} rows a step and KV head"
        link = f"{format_bytes(totals.bytes_fetched)}, {format_bytes(totals.bytes_per_second)}/s"
        table.add_row("fetched", f"{fetched}; {link}")
        table.add_row("hits", f"{totals.hit_rate:.1%} of the rows that steps demanded")
        columns = min(_CHART_COLUMNS, max(10, ctx.view.console.width - 30))
        table.add_row("misses", miss_chart(history, columns, levels))
        if layers := ctx.session.layer_misses():
            worst = max(range(len(layers)), key=layers.__getitem__)
            chart = sparkline(layers, levels)
            table.add_row("by layer", f"{chart}  up to {layers[worst]:.1%} in layer {worst}")
    return table
