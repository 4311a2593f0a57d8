"""What the catalog has, and for how long a document each model fits: the report of ``lrqk models``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.cli.footprint import AMPLE, CARD_DTYPE, longest_text
from lrqk_cli.config import WeightChoice
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.memory.budget import Budget

if TYPE_CHECKING:
    from rich.console import Console

    from lrqk_cli.models.store import StoredModel

# A document that is worth the choice of a larger model: some 50 pages.
_LONG = 1 << 15


def shelf(vram: int | None, ram: int | None) -> dict[str, Any]:
    """Return the models and the one to begin with, ready for JSON; sizes in bytes.

    Args:
        vram: of a card, whatever is in this machine; None for this machine.
        ram: of host memory; None for what is free, or beside a card for no limit.
    """
    from lrqk_cli.models import store

    budget, dtype, where, weights = _place(vram, ram)
    rows = [
        _row(model, longest_text(model.entry.alias, dtype, weights, budget, {}))
        for model in store.list_models()
    ]
    return {"where": where, "models": rows, "recommended": _recommended(rows, is_gpu=budget.vram is not None)}


def _place(vram: int | None, ram: int | None) -> tuple[Budget, str, str, WeightChoice]:
    """Return the memory to plan for, the element type, what they are of in words, and the form of weights."""
    from lrqk_cli.memory.budget import host_budget
    from lrqk_cli.memory.machine import detect_machine
    from lrqk_cli.memory.units import format_bytes

    if vram is not None:
        return Budget(vram, ram or AMPLE), CARD_DTYPE, f"a card of {format_bytes(vram)}", "auto"
    machine = detect_machine()
    if machine is not None and machine.name is None:
        host = host_budget(ram)
        dtype = CARD_DTYPE if machine.has_bfloat16 else "float32"
        return Budget(None, host), dtype, f"this CPU with {format_bytes(host)}", "auto"
    if machine is not None:
        dtype = CARD_DTYPE if machine.has_bfloat16 else "float16"
        budget = Budget(machine.free, host_budget(ram))
        return budget, dtype, f"{machine.name} with {format_bytes(machine.free or 0)} free", "auto"
    from lrqk_cli.memory.budget import find_budget
    from lrqk_cli.models.devices import resolve_device_dtype

    device, number_format = resolve_device_dtype(None, None, None)
    budget = find_budget(device, None, ram)
    # Others compute with plain numbers.
    weights: WeightChoice = "auto" if device.type == "cuda" else "bf16"
    return budget, dtype_name(number_format), str(device), weights


def _row(model: StoredModel, fit: dict[str, Any]) -> dict[str, Any]:
    entry, folder = model.entry, model.path
    return {
        "name": entry.alias,
        "description": entry.description,
        "license": entry.license,
        "context": entry.context,
        "chats": entry.chats,
        "tried": entry.tried,
        "download_bytes": entry.size_bytes,
        "pulled": model.pulled,
        "path": str(folder) if isinstance(folder, Path) else None,
        "disk_bytes": model.size_bytes,
        "longest_context": fit["longest_context"],
        "is_comfortable": fit["is_comfortable"],
        "parameters": fit["parameters"],
    }


def _recommended(rows: list[dict[str, Any]], *, is_gpu: bool) -> str | None:
    """Return the largest model that reads long documents with room to spare; a CPU reads slowly anyway."""
    from lrqk_cli.models.catalog import DEFAULT_MODEL

    if not is_gpu:
        return DEFAULT_MODEL
    fitting = [
        row for row in rows if row["chats"] and row["is_comfortable"] and row["longest_context"] >= _LONG
    ]
    best = max(fitting, key=lambda row: row["parameters"], default=None)
    return best["name"] if best is not None else None


def print_shelf(found: dict[str, Any], console: Console) -> None:
    """Print the report of ``shelf``."""
    from rich.table import Table

    from lrqk_cli.memory.units import format_bytes

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    for heading in ("download", "on disk", "longest\ndocument"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("license")
    for row in found["models"]:
        on_disk = format_bytes(row["disk_bytes"]) + ("" if row["pulled"] else " (part)")
        longest = f"{row['longest_context']:,}" if row["longest_context"] else "-"
        table.add_row(
            row["name"] + ("" if row["tried"] else "+"),
            format_bytes(row["download_bytes"]),
            on_disk if row["disk_bytes"] else "-",
            longest + ("*" if row["longest_context"] == row["context"] else " "),
            row["license"],
        )
    console.print(table)
    console.print(
        f"Longest document: tokens, on {found['where']}. *: the model's limit. -: it does not fit.",
        style="dim",
    )
    console.print(
        "+: not tried by the authors of lrqk yet. Any other: --model owner/name:Q4_K_M.", style="dim"
    )
    if found["recommended"] is not None:
        console.print(f"Recommended here: {found['recommended']}")
