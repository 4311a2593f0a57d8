"""The figures of the speed suite, computed from its runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.telemetry.stats import DecodeTotals


@dataclass(frozen=True, slots=True)
class Run:
    """One prefill and the decode steps after it.

    Attributes:
        tokens: the answer, from the prefill's token on.
        prefill_s: seconds until the cache was ready for decode.
        ttft_s: seconds until the answer's first token was known.
        steps_s: seconds of every decode step, from token to token.
        totals: counters of the steps.
    """

    tokens: tuple[int, ...]
    prefill_s: float
    ttft_s: float
    steps_s: tuple[float, ...]
    totals: DecodeTotals = field(default_factory=DecodeTotals)


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """One (mode, context): means over the repeats, and sample standard deviations where there are several.

    Attributes:
        ctx: requested tokens; ``prompt_tokens``: tokens of the prefill.
        prefill_test, decode_test: named as llama-bench does: ``pp65536``, ``tg128 @ d65536``.
        ttft_s: seconds from the prompt's first token to the answer's first.
        prefill_samples_s, ttft_samples_s: seconds of every repeat.
        decode_samples_ms: milliseconds of every decode step, repeat after repeat.
        peak_device_bytes: the most bytes that torch allocated over all runs; on a CPU, its resident memory.
        predicted_device_bytes: the same by ``memory.estimate``, for modes of our engine on a GPU.
        peak_reserved_bytes: the most bytes that torch's allocator held, with memory that it could not reuse.
        driver_bytes: bytes of the CUDA context, if no other process uses the GPU; with the bytes that the
            allocator held, the memory that the run needed.
        predicted_total_bytes: this need by ``memory.estimate``.
        memory_cap_bytes: bytes that torch was allowed to allocate.
        miss_rate, bytes_fetched_per_token: over all decode steps.
        roofline_bytes_per_token: bytes that a step at half of the answer must read, see ``memory.roofline``.
        roofline_share: measured decode speed over the limit that bandwidth sets for these bytes.
        note: how the measurement departs from its mode's definition.
        error: the reason for having no figures; all of them are then None.
    """

    mode: str
    ctx: int
    prompt_tokens: int
    prefill_test: str
    decode_test: str
    prefill_tokens_per_s: float | None = None
    prefill_tokens_per_s_std: float | None = None
    ttft_s: float | None = None
    ttft_s_std: float | None = None
    decode_tokens_per_s: float | None = None
    decode_tokens_per_s_std: float | None = None
    prefill_samples_s: tuple[float, ...] = ()
    ttft_samples_s: tuple[float, ...] = ()
    decode_samples_ms: tuple[float, ...] = ()
    peak_device_bytes: int | None = None
    predicted_device_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    driver_bytes: int | None = None
    predicted_total_bytes: int | None = None
    memory_cap_bytes: int | None = None
    host_kv_bytes: int | None = None
    index_bytes: int | None = None
    hot_bytes: int | None = None
    miss_rate: float | None = None
    bytes_fetched_per_token: float | None = None
    roofline_bytes_per_token: int | None = None
    roofline_share: float | None = None
    note: str | None = None
    error: str | None = None


def empty_result(mode: str, context: int, prompt_tokens: int, new_tokens: int) -> SpeedResult:
    """Return a result without figures."""
    return SpeedResult(
        mode, context, prompt_tokens, f"pp{prompt_tokens}", f"tg{new_tokens} @ d{prompt_tokens}"
    )


def with_figures(head: SpeedResult, runs: Sequence[Run], memory: MemoryUse) -> SpeedResult:
    """Return ``head`` with the figures of all runs.

    Args:
        memory: after the last run.
    """
    prefill = [head.prompt_tokens / run.prefill_s for run in runs]
    ttft = [run.ttft_s for run in runs]
    decode = [len(run.steps_s) / sum(run.steps_s) for run in runs]
    wanted, fetched, sent = (
        sum(getattr(run.totals, name) for run in runs)
        for name in ("rows_wanted", "rows_fetched", "bytes_fetched")
    )
    steps = [1000 * seconds for run in runs for seconds in run.steps_s]
    return replace(
        head,
        prefill_tokens_per_s=statistics.fmean(prefill),
        prefill_tokens_per_s_std=_deviation(prefill),
        ttft_s=statistics.fmean(ttft),
        ttft_s_std=_deviation(ttft),
        decode_tokens_per_s=statistics.fmean(decode),
        decode_tokens_per_s_std=_deviation(decode),
        prefill_samples_s=tuple(run.prefill_s for run in runs),
        ttft_samples_s=tuple(ttft),
        decode_samples_ms=tuple(steps),
        peak_device_bytes=memory.peak_device_bytes,
        host_kv_bytes=memory.host_kv_bytes,
        index_bytes=memory.index_bytes,
        hot_bytes=memory.hot_bytes,
        miss_rate=fetched / wanted if wanted else 0.0,
        bytes_fetched_per_token=sent / len(steps),
    )


def _deviation(samples: Sequence[float]) -> float | None:
    return statistics.stdev(samples) if len(samples) > 1 else None
