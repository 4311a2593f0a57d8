"""The status line at the bottom of the screen: context, memory, misses and speed."""

from __future__ import annotations

from collections.abc import Sequence

from lrqk_cli.chat.events import Status
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.memory.units import format_bytes

_SEPARATOR = " · "


def status_line(status: Status, width: int, model: str = "") -> str:
    """Return as many parts as fit in ``width`` columns: model, context, memory, misses and speed.

    Context, misses and speed have priority, then memory, then the rest.
    """
    memory, steps = status.memory, status.recent if status.recent.steps else status.cache
    context = f"/{status.context:,}" if status.context is not None else ""
    # (importance, text); the least important part is dropped first.
    parts = [
        (2, model),
        (9, f"{status.used:,}{context} tokens"),
        *(_memory_parts(memory) if memory is not None else ()),
        (7, f"misses {steps.miss_rate:.1%}" if steps.rows_wanted else ""),
        (4, f"link {format_bytes(steps.bytes_per_second)}/s" if steps.bytes_fetched else ""),
        (8, f"{steps.tokens_per_second:.1f} tok/s" if steps.steps else ""),
    ]
    return _fit([part for part in parts if part[1]], width)


def _memory_parts(memory: MemoryUse) -> list[tuple[int, str]]:
    held = {"weights": memory.weight_bytes, "index": memory.index_bytes, "hot": memory.hot_bytes}
    return [
        (5, f"{memory.device} {device_memory(memory)}"),
        (1, ", ".join(f"{name} {format_bytes(size)}" for name, size in held.items() if size)),
        (3, f"KV {format_bytes(memory.host_kv_bytes)}" if memory.host_kv_bytes else ""),
    ]


def device_memory(memory: MemoryUse) -> str:
    """Return the device memory in use, and the budget if it is known."""
    used = format_bytes(memory.device_bytes)
    return f"{used} of {format_bytes(memory.budget_bytes)}" if memory.budget_bytes else used


def _fit(parts: Sequence[tuple[int, str]], width: int) -> str:
    """Join the parts; drop the least important ones that do not fit."""
    kept = list(parts)
    while len(line := _SEPARATOR.join(text for _, text in kept)) > width and len(kept) > 1:
        kept.remove(min(kept))
    return line[:width]
