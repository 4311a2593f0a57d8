"""The table of docs/performance.md about one decode step, from reports of profile_steps.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reports import MixedReportsError, Reports, Row, Table, context_name, of_suite

_SHOWN = 12


def step_kernels(reports: Reports) -> Iterator[Row]:
    """Give one line for each of the costliest kernels, and two columns a context; times are in µs."""
    own = list(of_suite(reports, "profile").values())
    if len(own) > 1:
        raise MixedReportsError(f"One profile makes the table, not {len(own)}.")
    launches: list[dict[str, Any]] = own[0]["results"]
    contexts = sorted({each["ctx"] for each in launches})
    per_context: list[dict[str, dict[str, Any]]] = [
        {each["kernel"]: each for each in launches if each["ctx"] == context} for context in contexts
    ]
    yield (
        "kernel",
        "launches",
        *(f"{context_name(each)}, µs {what}" for each in contexts for what in _TIMES),
    )
    last = per_context[-1]
    named = sorted(last, key=lambda name: -_spent(last[name]))[:_SHOWN]
    for name in named:
        cells = (cell for kernels in per_context for cell in _times(kernels.get(name)))
        yield (f"`{name.lstrip('_')}`", f"{last[name]['launches']:.0f}", *cells)
    rest = [sum(_spent(each) for name, each in own.items() if name not in named) for own in per_context]
    yield ("others", "", *(cell for total in rest for cell in ("", f"{total:,.0f}")))
    whole = [sum(map(_spent, own.values())) for own in per_context]
    yield ("all kernels", "", *(cell for total in whole for cell in ("", f"{total:,.0f}")))
    steps = [next(iter(own.values()))["step_ms"] for own in per_context]
    yield ("a step, without a profiler", "", *(cell for time in steps for cell in ("", f"{1e3 * time:,.0f}")))


_TIMES = ("each", "in all")


def _spent(kernel: dict[str, Any]) -> float:
    return float(kernel["launches"] * kernel["us"])


def _times(kernel: dict[str, Any] | None) -> Row:
    return ("", "") if kernel is None else (f"{kernel['us']:.1f}", f"{_spent(kernel):,.0f}")


TABLES = {"step-kernels": Table(r"profile-.*", step_kernels)}
