"""Results as JSON, CSV and Markdown, with the environment that they were measured in."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from lrqk_cli import __version__
from lrqk_cli.config import LrqkConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Table:
    """What a person reads of the results.

    Attributes:
        columns: heads.
        lines: cells, as many a line as there are columns.
    """

    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a suite has measured.

    Attributes:
        suite: its name and what it was asked to measure.
        results: one dataclass instance a line; fields that hold several values are left out of the CSV.
        table: the same for a person.
        summary: what follows from the results together; ``notes``: the same in sentences.
    """

    suite: dict[str, Any]
    results: Sequence[DataclassInstance]
    table: Table
    summary: Sequence[DataclassInstance] = ()
    notes: Sequence[str] = ()


def environment(device: torch.device, dtype: torch.dtype, model: str) -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine()
    return {
        "lrqk": __version__,
        "model": model,
        "device": name,
        "device_type": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "platform": platform.platform(),
    }


def to_json(where: dict[str, Any], settings: LrqkConfig, report: Report) -> str:
    """Return one object with ``environment``, ``settings``, ``suite``, ``results`` and maybe ``summary``."""
    whole = {
        "environment": where,
        "settings": asdict(settings),
        "suite": report.suite,
        "results": [asdict(result) for result in report.results],
    }
    if report.summary:
        whole["summary"] = [asdict(summary) for summary in report.summary]
    return json.dumps(whole, indent=2)


def to_csv(where: dict[str, Any], settings: LrqkConfig, report: Report) -> str:
    """Return one line a result, which ends with the environment and the settings."""
    around = {**where, **_flat(settings)}
    rows = [
        {**{k: v for k, v in asdict(result).items() if not isinstance(v, tuple)}, **around}
        for result in report.results
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")


def to_markdown(where: dict[str, Any], settings: LrqkConfig, report: Report) -> str:
    """Return a table, and under it what was measured, where and with which settings."""
    columns = report.table.columns
    lines = [columns, tuple("---" for _ in columns), *report.table.lines]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    facts_by_name = (("Suite", report.suite), ("Environment", where), ("Settings", _flat(settings)))
    return "\n\n".join(
        [table, *report.notes, *(f"{name}: {_listed(facts)}" for name, facts in facts_by_name)]
    )


def _flat(settings: LrqkConfig) -> dict[str, Any]:
    """Return the settings, ``als.init`` and so on by their own names; each result says its own mode."""
    flat: dict[str, Any] = {}

    def add(facts: dict[str, Any], prefix: str) -> None:
        for name, value in facts.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value

    add(asdict(settings), "")
    del flat["attention"]
    return flat


def _listed(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in facts.items()) + "."


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return "auto" if value is None else str(value)
