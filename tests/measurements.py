"""The scripts behind the figures of the docs, as modules."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from lrqk_cli.bench.report import Report, Table, to_json
from lrqk_cli.config import LrqkConfig

FOLDER = Path(__file__).parents[1] / "docs" / "measurements"


def script(name: str) -> ModuleType:
    """Return a script of docs/measurements, or a module beside them."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return import_module(name)


def bench_report(
    suite: str,
    results: Sequence[Any],
    summary: Sequence[Any] = (),
    settings: LrqkConfig | None = None,
    ended_by: Exception | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Return what ``lrqk bench --output json`` writes, as read from its file."""
    config = settings or LrqkConfig()
    where = {
        "model": "llama-3.1-8b (random weights)",
        "sources": "abc",
        "device": "NVIDIA H200",
        "device_type": "cuda",
        "weights": "q4",
        "torch": "2.11.0",
        "triton": "3.6.0",
        "transformers": "5.24.0",
        **facts,
    }
    modes = {"lrqk": config, "dense": replace(config, attention="dense", kv_dtype="bf16")}
    table = Table((), ())
    report = Report({"name": suite}, results, table, summary, modes=modes, ended_by=ended_by)
    read: dict[str, Any] = json.loads(to_json(where, config, report))
    return read
