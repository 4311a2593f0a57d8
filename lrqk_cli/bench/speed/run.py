"""Speed and memory of prefill and decode, one mode and context length at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from lrqk_cli.bench.report import Table
from lrqk_cli.config import AttentionMode, GenerationConfig, LrqkConfig, ModelSpec
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.telemetry.stats import DecodeTotals

# What a process does for the first time is slow; this much is run before anything is measured.
_WARM_UP_TOKENS, _WARM_UP_STEPS = 128, 4

_COLUMNS = (
    "mode",
    "ctx",
    "prefill tok/s",
    "TTFT s",
    "decode tok/s",
    "peak MiB",
    "host KV MiB",
    "miss rate",
    "KiB/token",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        modes: attention modes.
        contexts: tokens reserved; the prompt fills them but for ``new_tokens`` and one more.
        new_tokens: decode steps after each prefill.
        repeat: runs of each (mode, context).

    Raises:
        UsageError: a context has no room for a prompt.
    """

    modes: tuple[AttentionMode, ...]
    contexts: tuple[int, ...]
    new_tokens: int
    repeat: int

    def __post_init__(self) -> None:
        if self.new_tokens < 1 or self.repeat < 1:
            raise UsageError("--new-tokens and --repeat must be at least 1.")
        if self.prompt_tokens(min(self.contexts)) < 1:
            raise UsageError(
                f"A context of {min(self.contexts):,} tokens has no room for a prompt and "
                f"{self.new_tokens:,} new tokens.",
                "Raise --ctx or lower --new-tokens.",
            )

    def prompt_tokens(self, context: int) -> int:
        """Return the tokens of the prompt that leaves room for the decode steps."""
        return context - self.new_tokens - 1


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """One (mode, context), averaged over the repeats.

    Attributes:
        prefill_tokens_per_s: prompt tokens over the time until the cache was ready for decode.
        ttft_s: seconds from the prompt's first token to the answer's first.
        decode_samples_ms: milliseconds of every decode step of every repeat.
        peak_device_bytes: the most over the repeats; on a CPU, resident memory of the process.
        miss_rate, bytes_fetched_per_token: over all decode steps.
        error: why there are no figures; all of them are then None.
    """

    mode: AttentionMode
    ctx: int
    prompt_tokens: int
    prefill_tokens_per_s: float | None = None
    ttft_s: float | None = None
    decode_tokens_per_s: float | None = None
    decode_samples_ms: tuple[float, ...] = ()
    peak_device_bytes: int | None = None
    host_kv_bytes: int | None = None
    index_bytes: int | None = None
    hot_bytes: int | None = None
    miss_rate: float | None = None
    bytes_fetched_per_token: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    prefill_s: float
    ttft_s: float
    steps: tuple[float, ...]
    totals: DecodeTotals
    memory: MemoryUse


def measure(
    model: PreTrainedModel,
    spec: ModelSpec,
    settings: LrqkConfig,
    plan: Plan,
    prompt: Sequence[int],
    on_progress: Callable[[str], None],
) -> Iterator[SpeedResult]:
    """Yield one result for each (mode, context) of the plan.

    Args:
        settings: everything but the mode.
        prompt: at least as many tokens as the longest context.
        on_progress: told what is being measured.
    """
    for context in plan.contexts:
        for mode in plan.modes:
            chosen = replace(settings, attention=mode)
            try:
                yield _measure_one(model, spec, chosen, context, plan, prompt, on_progress)
            except (OutOfMemoryError, torch.OutOfMemoryError) as error:
                reason = str(error).splitlines()[0]
                yield SpeedResult(mode, context, plan.prompt_tokens(context), error=f"does not fit: {reason}")


def _measure_one(
    model: PreTrainedModel,
    spec: ModelSpec,
    settings: LrqkConfig,
    context: int,
    plan: Plan,
    prompt: Sequence[int],
    on_progress: Callable[[str], None],
) -> SpeedResult:
    label = f"{settings.attention} at {context:,} tokens"
    on_progress(f"{label}: warming up")
    length = plan.prompt_tokens(context)
    _run(model, spec, settings, context, prompt[: min(length, _WARM_UP_TOKENS)], _WARM_UP_STEPS)
    runs = []
    for number in range(plan.repeat):
        on_progress(f"{label}: run {number + 1} of {plan.repeat}")
        runs.append(_run(model, spec, settings, context, prompt[:length], plan.new_tokens))
    steps = [step for run in runs for step in run.steps]
    wanted = sum(run.totals.rows_wanted for run in runs)
    memory = runs[-1].memory
    return SpeedResult(
        mode=settings.attention,
        ctx=context,
        prompt_tokens=length,
        prefill_tokens_per_s=statistics.mean(length / run.prefill_s for run in runs),
        ttft_s=statistics.mean(run.ttft_s for run in runs),
        decode_tokens_per_s=len(steps) / sum(steps) if steps else None,
        decode_samples_ms=tuple(1000 * step for step in steps),
        peak_device_bytes=max(run.memory.peak_device_bytes for run in runs),
        host_kv_bytes=memory.host_kv_bytes,
        index_bytes=memory.index_bytes,
        hot_bytes=memory.hot_bytes,
        miss_rate=sum(run.totals.rows_fetched for run in runs) / wanted if wanted else 0.0,
        bytes_fetched_per_token=sum(run.totals.bytes_fetched for run in runs) / max(1, len(steps)),
    )


def _run(
    model: PreTrainedModel,
    spec: ModelSpec,
    settings: LrqkConfig,
    context: int,
    prompt: Sequence[int],
    new_tokens: int,
) -> _Run:
    with Engine(model, spec, settings, context) as engine:
        began = time.perf_counter()
        for _ in engine.prefill(prompt):
            pass
        _synchronise(engine.device)
        prefilled = time.perf_counter()
        # The first token comes from the prefill's logits; every further one takes a decode step.
        greedy = GenerationConfig(max_new_tokens=new_tokens + 1)
        first, steps = 0.0, []
        for step in engine.generate(greedy, stop_ids=()):
            if first == 0.0:
                first = time.perf_counter()
            else:
                steps.append(step.stats.seconds)
        return _Run(prefilled - began, first - began, tuple(steps), engine.totals, engine.memory())


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(results: Sequence[SpeedResult]) -> Table:
    """Return the figures for a person."""
    return Table(_COLUMNS, tuple(_cells(result) for result in results))


def _cells(result: SpeedResult) -> tuple[str, ...]:
    """Return one line of the table; a result without figures says why in the first of them."""
    if result.error is not None:
        return (result.mode, f"{result.ctx:,}", result.error, *([""] * (len(_COLUMNS) - 3)))
    return (
        result.mode,
        f"{result.ctx:,}",
        f"{result.prefill_tokens_per_s:,.1f}",
        f"{result.ttft_s:.2f}",
        f"{result.decode_tokens_per_s:.2f}",
        _scaled(result.peak_device_bytes, 2**20),
        _scaled(result.host_kv_bytes, 2**20),
        f"{result.miss_rate:.1%}",
        _scaled(result.bytes_fetched_per_token, 2**10),
    )


def _scaled(size: float | None, unit: int) -> str:
    return "" if size is None else f"{size / unit:,.1f}"
