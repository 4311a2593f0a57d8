"""The report of ``lrqk models``: the catalog, and the longest document that fits each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrqk_cli.cli import footprint
from lrqk_cli.config import WeightChoice
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.memory.budget import Budget, find_budget, host_budget
from lrqk_cli.memory.footprint import AMPLE, CARD_DTYPE, LongestText
from lrqk_cli.memory.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console

    from lrqk_cli.models.store import StoredModel

# Tokens of a document, about 50 pages, that a recommended model must fit.
_LONG = 1 << 15


@dataclass(frozen=True, slots=True)
class ShelfRow:
    """A model of the catalog, and the longest text of it that fits."""

    model: StoredModel
    fit: LongestText

    def facts(self) -> dict[str, object]:
        """Return the fields of the JSON; sizes in bytes."""
        model, entry, fit = self.model, self.model.entry, self.fit
        return {
            "name": entry.alias,
            "description": entry.description,
            "license": entry.license,
            "context": entry.context,
            "chats": entry.chats,
            "tried": entry.tried,
            "download_bytes": entry.size_bytes,
            "pulled": model.pulled,
            "path": str(model.path) if isinstance(model.path, Path) else None,
            "disk_bytes": model.size_bytes,
            "longest_context": fit.longest_context,
            "is_comfortable": fit.is_comfortable,
            "parameters": fit.parameters,
        }


@dataclass(frozen=True, slots=True)
class Shelf:
    """The models, the description of the device in ``where``, and the recommended model."""

    where: str
    models: tuple[ShelfRow, ...]
    recommended: str | None


def shelf(vram: int | None, ram: int | None) -> Shelf:
    """Return the models of the catalog, each with the longest text that fits.

    Args:
        vram: bytes of a card, whatever is in this machine; None for this machine.
        ram: bytes of host memory; None for the free bytes, or with ``vram`` for no limit.
    """
    from lrqk_cli.models import store

    budget, dtype, where, weights = _place(vram, ram)
    rows = tuple(
        ShelfRow(model, footprint.longest(model.entry.alias, dtype, weights, budget, {}))
        for model in store.list_models()
    )
    return Shelf(where, rows, _recommended(rows, is_gpu=budget.vram is not None))


def _place(vram: int | None, ram: int | None) -> tuple[Budget, str, str, WeightChoice]:
    """Return the memory to plan for, the element type, the device in words, and the form of the weights."""
    from lrqk_cli.memory.machine import detect_machine

    if vram is not None:
        return Budget(vram, ram or AMPLE), CARD_DTYPE, f"a card of {format_bytes(vram)}", "auto"
    machine = detect_machine()
    if machine is not None:
        budget = Budget(machine.free, host_budget(ram))
        where = f"this CPU with {format_bytes(budget.ram)}"
        if machine.name is not None:
            where = f"{machine.name} with {format_bytes(machine.free or 0)} free"
        return budget, machine.dtype, where, "auto"
    from lrqk_cli.models.devices import resolve_device_dtype

    device, number_format = resolve_device_dtype(None, None, None)
    budget = find_budget(device, None, ram)
    # Other devices compute with plain numbers.
    weights: WeightChoice = "auto" if device.type == "cuda" else "bf16"
    return budget, dtype_name(number_format), str(device), weights


def _recommended(rows: Sequence[ShelfRow], *, is_gpu: bool) -> str | None:
    """Return the largest model that long documents fit comfortably; for a CPU, which is slow, the default."""
    from lrqk_cli.models.catalog import DEFAULT_MODEL

    if not is_gpu:
        return DEFAULT_MODEL
    fitting = [
        row.fit
        for row in rows
        if row.model.entry.chats and row.fit.is_comfortable and row.fit.longest_context >= _LONG
    ]
    best = max(fitting, key=lambda fit: fit.parameters, default=None)
    return best.name if best is not None else None


def print_shelf(found: Shelf, console: Console) -> None:
    """Print a shelf as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    for heading in ("download", "on disk", "longest\ndocument"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("license")
    for row in found.models:
        model, entry, longest = row.model, row.model.entry, row.fit.longest_context
        on_disk = format_bytes(model.size_bytes) + ("" if model.pulled else " (part)")
        table.add_row(
            entry.alias + ("" if entry.tried else "+"),
            format_bytes(entry.size_bytes),
            on_disk if model.size_bytes else "-",
            (f"{longest:,}" if longest else "-") + ("*" if longest == entry.context else " "),
            entry.license,
        )
    console.print(table)
    console.print(
        f"Longest document: tokens, on {found.where}. *: the model's limit. -: it does not fit.",
        style="dim",
    )
    console.print(
        "+: not tried by the authors of lrqk yet. Any other: --model owner/name:Q4_K_M.", style="dim"
    )
    if found.recommended is not None:
        console.print(f"Recommended here: {found.recommended}")
