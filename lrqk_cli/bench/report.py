"""Results as JSON, CSV and Markdown, with the environment that they were measured in."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from lrqk_cli import __version__
from lrqk_cli.bench.speed import SpeedResult
from lrqk_cli.config import LrqkConfig

_COLUMNS = (
    "mode",
    "ctx",
    "prefill tok/s",
    "TTFT s",
    "decode tok/s",
    "peak device",
    "host KV",
    "miss rate",
    "B/token",
)


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


def to_json(where: dict[str, Any], settings: LrqkConfig, results: Sequence[SpeedResult]) -> str:
    """Return one object with ``environment``, ``settings`` and ``results``."""
    report = {
        "environment": where,
        "settings": asdict(settings),
        "results": [asdict(result) for result in results],
    }
    return json.dumps(report, indent=2)


def to_csv(results: Sequence[SpeedResult]) -> str:
    """Return one line a result; the samples of the decode steps are left to the JSON."""
    rows = [{k: v for k, v in asdict(result).items() if k != "decode_samples_ms"} for result in results]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")


def to_markdown(results: Sequence[SpeedResult]) -> str:
    """Return a table."""
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *(cells(result) for result in results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def columns() -> tuple[str, ...]:
    """Return the heads of the table."""
    return _COLUMNS


def cells(result: SpeedResult) -> tuple[str, ...]:
    """Return one line of the table; a result without figures says why in the first of them."""
    if result.error is not None:
        return (result.mode, f"{result.ctx:,}", result.error, *([""] * (len(_COLUMNS) - 3)))
    return (
        result.mode,
        f"{result.ctx:,}",
        f"{result.prefill_tokens_per_s:,.1f}",
        f"{result.ttft_s:.2f}",
        f"{result.decode_tokens_per_s:.2f}",
        _mebibytes(result.peak_device_bytes),
        _mebibytes(result.host_kv_bytes),
        f"{result.miss_rate:.1%}",
        f"{result.bytes_fetched_per_token:,.0f}",
    )


def _mebibytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:,.1f} MiB"
