"""The tables of docs/memory.md, from reports of the suite speed."""

from __future__ import annotations

from collections.abc import Iterator

from reports import MixedReportsError, Reports, Row, Table, context_name
from speed_results import (
    Measured,
    beyond,
    card,
    check_alike,
    check_once,
    decode,
    grouped,
    measured,
    prefill,
    scaled,
)

_MIB = 2**20


def predicted(reports: Reports) -> Iterator[Row]:
    """Give one line for each model and its settings, and one column a context."""
    found = measured(reports)
    check_alike(found, "device")
    check_once(found, lambda each: (each.label, _settings(each), each.figures.ctx))
    contexts = list(dict.fromkeys(each.figures.ctx for each in found))
    yield ("shape, weights", "settings", *map(context_name, contexts))
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for each in sorted(found, key=lambda each: each.report):
        cell = scaled(each.figures.peak_device_bytes, _MIB, 0) + beyond(each.figures)
        cells.setdefault((each.label, _settings(each)), {})[each.figures.ctx] = cell or "does not fit"
    lines = [(*head, *(own.get(context, "") for context in contexts)) for head, own in cells.items()]
    yield from grouped(lines, 1)


def limits(reports: Reports) -> Iterator[Row]:
    """Give one line for each run that was held to a card's memory."""
    yield (
        "card",
        "shape, weights",
        "context",
        "settings",
        "allowed, MiB",
        "peak",
        "predicted",
        "held by the allocator",
        "prefill, tokens/s",
        "decode, tokens/s",
    )
    found = measured(reports)
    check_alike(found, "device")
    capped = []
    for each in found:
        if each.figures.memory_cap_bytes is None:
            raise MixedReportsError(f"{each.report} was not held to a card's memory: give --vram.")
        capped.append((each.figures.memory_cap_bytes, each))
    for cap, each in sorted(capped, key=lambda pair: (pair[0], pair[1].label, pair[1].figures.ctx)):
        figures = each.figures
        yield (
            card(cap),
            each.label,
            context_name(figures.ctx),
            _settings(each),
            scaled(cap, _MIB, 0),
            scaled(figures.peak_device_bytes, _MIB, 0),
            scaled(figures.predicted_device_bytes, _MIB, 0) + beyond(figures),
            scaled(figures.peak_reserved_bytes, _MIB, 0),
            prefill(figures),
            decode(figures),
        )


def _settings(each: Measured) -> str:
    settings = each.settings
    segments = f"segments of {settings['segment']:,}" if settings["segment"] else ""
    if each.figures.mode != "lrqk":
        return ", ".join(filter(None, (each.figures.mode, segments)))
    rows = "" if settings["kv_dtype"] == "bf16" else f"rows in {settings['kv_dtype']}"
    index = f"rank {settings['rank']} in {settings['index_bits']} bits"
    return ", ".join(filter(None, (f"{settings['hot']:,} hot rows", index, rows, segments)))


TABLES = {"predicted": Table(r"peak-.*", predicted), "limits": Table(r"vram-.*", limits)}
