"""The figures of the speed suite for a person: a table as in llama-bench, notes and a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrqk_cli.bench.plot import LineChart, LinePoint
from lrqk_cli.bench.report import Table
from lrqk_cli.bench.speed.results import SpeedResult
from lrqk_cli.memory.roofline import Bandwidth

_PREDICTED = "predicted GiB"
_COLUMNS = (
    "mode",
    "test",
    "tokens/s",
    "TTFT s",
    "peak GiB",
    _PREDICTED,
    "host GiB",
    "miss rate",
    "link MiB",
    "MBU",
)
_BLANK = ""
_MBU = (
    "MBU, model bandwidth utilization: decode speed as a share of the roofline, where the measured bandwidth "
    "delivers weights and KV rows, or weights, index and hot rows. Link MiB are those of a token."
)
_PEAK = (
    "Peak and predicted GiB are what torch allocates. What CUDA takes beside it, and what the allocator "
    "holds in all, are driver_bytes and peak_reserved_bytes in --output json."
)
RANDOM_WEIGHTS = (
    "The weights are random: miss rate and link traffic are not representative. Embeddings share a "
    "direction, so that consecutive queries are alike, as they are in trained models."
)


def table(results: Sequence[SpeedResult]) -> Table:
    """Return two lines per result: prompt processing, and text generation at its depth."""
    lines = [line for result in results for line in _lines(result)]
    kept = [
        number
        for number, name in enumerate(_COLUMNS)
        if name != _PREDICTED or any(line[number] for line in lines)
    ]
    return Table(
        tuple(_COLUMNS[number] for number in kept),
        tuple(tuple(line[number] for number in kept) for line in lines),
    )


def notes(results: Sequence[SpeedResult], bandwidth: Bandwidth, *, random_weights: bool) -> list[str]:
    """Return sentences: errors and notes of results, the bandwidths, and explanations of the columns."""
    found = [
        f"{result.mode} at {result.prompt_tokens:,} tokens {result.error}"
        for result in results
        if result.error is not None
    ]
    found += [
        f"{result.mode} at {result.prompt_tokens:,} tokens: {result.note}."
        for result in results
        if result.note is not None
    ]
    link = "" if bandwidth.link is None else f", of the link {bandwidth.link / 1e9:,.1f} GB/s"
    found.append(f"Measured bandwidth of memory: {bandwidth.memory / 1e9:,.1f} GB/s{link}.")
    found.append(_MBU)
    if any(result.predicted_device_bytes is not None for result in results):
        found.append(_PEAK)
    if random_weights:
        found.append(RANDOM_WEIGHTS)
    return found


def chart(results: Sequence[SpeedResult]) -> LineChart:
    """Return the decode speed over the context, one line per mode."""
    points = [
        LinePoint(
            result.prompt_tokens,
            result.decode_tokens_per_s,
            result.decode_tokens_per_s_std or 0.0,
            result.mode,
        )
        for result in results
        if result.decode_tokens_per_s is not None
    ]
    return LineChart("Decode", "tokens/s", points)


def _lines(result: SpeedResult) -> list[tuple[str, ...]]:
    tests = result.prefill_test, result.decode_test
    if result.error is not None:
        blank = [_BLANK] * (len(_COLUMNS) - 3)
        return [(result.mode, test, "does not fit", *blank) for test in tests]
    prefill = (
        _mean(result.prefill_tokens_per_s, result.prefill_tokens_per_s_std),
        _scaled(result.ttft_s, 1),
        *[_BLANK] * (len(_COLUMNS) - 4),
    )
    decode = (
        _mean(result.decode_tokens_per_s, result.decode_tokens_per_s_std),
        _BLANK,
        _scaled(result.peak_device_bytes, 2**30),
        _scaled(result.predicted_device_bytes, 2**30),
        _scaled(result.host_kv_bytes, 2**30),
        _share(result.miss_rate),
        _scaled(result.bytes_fetched_per_token, 2**20),
        _share(result.roofline_share),
    )
    return [(result.mode, test, *cells) for test, cells in zip(tests, (prefill, decode), strict=True)]


def _mean(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return _BLANK
    # Four digits, and the deviation with as many decimals.
    decimals = max(0, 3 - math.floor(math.log10(mean)))
    spread = "" if deviation is None else f" ± {deviation:,.{decimals}f}"
    return f"{mean:,.{decimals}f}{spread}"


def _scaled(size: float | None, unit: int) -> str:
    if size is None:
        return _BLANK
    return "0" if size == 0 else f"{size / unit:,.2f}" if size < 100 * unit else f"{size / unit:,.0f}"


def _share(share: float | None) -> str:
    return _BLANK if share is None else f"{share:.1%}"
