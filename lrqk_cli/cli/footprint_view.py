"""The report of ``lrqk info --model`` on a terminal of 80 columns, with and without colour."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from lrqk_cli.memory.footprint import (
    CARDS,
    CONTEXTS,
    CardCell,
    CardReport,
    Footprint,
    HostMemory,
    PredictedSpeed,
)
from lrqk_cli.memory.units import format_bytes
from lrqk_cli.models.mixes import ON_LOAD

_ITEMS = {
    "weights": "Weights",
    "kv_rows": "KV rows of all tokens",
    "index": "Low-rank index",
    "hot_rows": "Hot rows and recent window",
    "sliding_windows": "Sliding windows",
    "states": "States of recurrent layers",
    "bookkeeping": "Tables and factors",
    "decode_scratch": "Scratch of decode steps",
    "logits": "Logits",
    "prefill_inputs": "Prefill: inputs of layers",
    "prefill_attention": "Prefill: attention",
    "prefill_mlp": "Prefill: MLP",
    "prefill_state": "Prefill: recurrence",
    "settling": "Building the index",
    "cublas": "Scratch of cuBLAS",
    "fragments": "Fragmentation",
    "cuda_context": "CUDA context",
    "total": "Total",
}
_ON_HOST = "^"
_BAR = 60
# The character of each part of the bar -> its label and its items.
_PARTS = {
    "#": ("weights", ("weights",)),
    "=": ("rows and index", ("kv_rows", "index", "hot_rows", "sliding_windows", "bookkeeping")),
}


def print_footprint(report: Footprint, console: Console) -> None:
    """Print the memory that a model needs."""
    shape = report.shape
    console.print(
        f"{report.model}: {report.architecture}, {report.parameters:,} parameters, "
        f"{shape.layers} layers ({shape.full_attention_layers} full attention), "
        f"{shape.heads} heads, {shape.kv_heads} KV heads of {shape.head_dim}"
    )
    console.print(
        f"{report.ctx:,} tokens of at most {shape.max_context:,}, {report.dtype}, weights {report.weights}"
    )
    console.print(_chosen(report) + "\n")
    console.print(_items(report))
    if report.budget is not None:
        console.print("\n" + _bar(report.device_memory, report.budget))
    host = report.host_memory
    console.print("\n" + _host_memory(host) if host.kv_rows or host.weights else "")
    if report.longest_context is not None:
        longest, most = report.longest_context, shape.max_context
        limit = " (the model's limit)" if longest == most else ""
        console.print(f"Longest context that fits: {longest:,} tokens{limit}.")
    if report.predicted is not None:
        console.print(_prediction(report.predicted))
    console.print()
    console.print(f"On common cards, in {report.cards_dtype}:")
    console.print(_cards(report))
    console.print(
        "full: full attention fits. A number: LRQK with so many hot rows. -: does not fit.", style="dim"
    )
    if len({cell.weights for cell in report.cards if cell.weights}) > 1:
        console.print("q8, q4: with weights packed so while loading.", style="dim")
    if any(cell.experts_on_host for cell in report.cards):
        console.print(f"{_ON_HOST}: with the experts in host memory.", style="dim")
    if CONTEXTS[-1] > shape.max_context:
        console.print(f"*: beyond the model's {shape.max_context:,} tokens.", style="dim")
    console.print("Sizes are those of a GPU; what comes and goes is an upper bound.", style="dim")


def print_card(report: CardReport, console: Console) -> None:
    """Print the longest texts on a card."""
    console.print(
        f"The longest contexts on a card of {format_bytes(report.device_bytes)}, in {report.dtype}:\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    for heading in ("weights", "longest\ncontext", "with full\nattention", "KV rows in\nhost memory"):
        table.add_column(heading, justify="right")
    for row in report.models:
        longest, full, on_host = row.longest_context, row.longest_full_attention, row.host_kv_rows
        table.add_row(
            row.name,
            f"{row.weights}{_ON_HOST * bool(row.host_weights)} {format_bytes(row.weight_bytes)}",
            (f"{longest:,}" if longest else "-") + ("*" if longest == row.max_context else " "),
            f"{full:,}" if full else "-",
            format_bytes(on_host) if on_host else "-",
        )
    console.print(table)
    console.print("*: the model's limit. -: does not fit, or no KV rows there.", style="dim")
    if any(row.host_weights for row in report.models):
        console.print(f"{_ON_HOST}: the size on the card, with the experts in host memory.", style="dim")
    console.print("'lrqk info --model NAME --vram SIZE' tells more about one of them.", style="dim")


def _chosen(report: Footprint) -> str:
    attention = report.attention
    text = f"--attention {attention.attention}"
    if attention.attention == "lrqk":
        text += (
            f" --rank {attention.rank} --index-bits {attention.index_bits}"
            f" --hot {attention.hot} --top-k {attention.top_k}"
        )
    if attention.segment:
        text += f" --segment {attention.segment}"
    return text + (f"\n{report.why}" if report.why else "")


def _items(report: Footprint) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("on the device, at the peak")
    table.add_column("memory", justify="right")
    for key, label in _ITEMS.items():
        size = report.device_memory.get(key)
        if size:
            table.add_row(label, format_bytes(size), style="bold" if key == "total" else None)
    table.add_section()
    table.add_row("Full attention instead", format_bytes(report.full_attention_device_memory))
    return table


def _bar(items: Mapping[str, int], budget: int) -> str:
    """Return the use of the budget as a bar of characters that need no colour."""
    sizes = {mark: sum(items.get(key, 0) for key in keys) for mark, (_, keys) in _PARTS.items()}
    sizes["+"] = items["total"] - sum(sizes.values())
    drawn, end = "", 0
    for mark, size in sizes.items():
        end += size
        drawn += mark * (min(_BAR, round(_BAR * end / budget)) - len(drawn))
    fits = "" if items["total"] <= budget else ", which is too little"
    return (
        f"[{drawn:.<{_BAR}}]\n"
        f"{format_bytes(items['total'])} of {format_bytes(budget)}{fits}\n"
        "# weights  = rows and index  + scratch and driver  . free"
    )


def _host_memory(host: HostMemory) -> str:
    sizes = {"KV rows": host.kv_rows, "experts": host.weights}
    parts = [f"{format_bytes(size)} of {name}" for name, size in sizes.items() if size]
    text = f"In host memory: {', '.join(parts)}."
    if host.kv_rows + host.weights > host.free:
        text += f" This machine has {format_bytes(host.free)} for them."
    return text


def _prediction(predicted: PredictedSpeed) -> str:
    return (
        f"Predicted, not measured: at most {predicted.decode_tokens_per_s:.0f} tokens/s while answering,\n"
        f"full attention {predicted.full_attention_decode_tokens_per_s:.0f}, by "
        f"{predicted.bandwidth_bytes_per_s / 1e9:.0f} GB/s of memory bandwidth; misses not counted."
    )


def _cards(report: Footprint) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("card")
    limit = report.shape.max_context
    for context in CONTEXTS:
        table.add_column(f"{context >> 10}k" + ("*" if context > limit else ""), justify="right")
    for number, card in enumerate(CARDS):
        row = report.cards[number * len(CONTEXTS) : (number + 1) * len(CONTEXTS)]
        table.add_row(f"{card} GiB", *(_cell(cell) for cell in row))
    return table


def _cell(cell: CardCell) -> str:
    if cell.attention is None:
        return "-"
    text = f"{cell.hot:,}" if cell.hot else cell.attention.replace("dense", "full")
    text = f"{text} {cell.weights}" if cell.weights in ON_LOAD else text
    return text + _ON_HOST * cell.experts_on_host
