"""Choose the settings that give the best answers in the available memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lrqk_cli.config import SETTINGS_OF_LRQK, LrqkConfig, default_top_k
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.estimate import CPU_SEGMENT, estimate
from lrqk_cli.memory.plan import SEGMENTS, Plan, PlanTask
from lrqk_cli.model_spec import ModelSpec

_RANK, _LEAST_RANK = 64, 32
_BITS = 4
# Hot rows: the step between choices, the number preferred to a longer segment, and the most. More would gain
# little quality (docs/quality.md), and every decode step reads all hot rows.
HOT_STEP, _GOOD_HOT, _MOST_HOT = 64, 4096, LrqkConfig().hot
LEAST_HOT = 1024
"""The fewest hot rows that are chosen."""

# Full attention is not chosen if a step reads more than this many times the bytes of LRQK.
_WORTHWHILE = 2
# ``longest_context`` returns a multiple of this, or its limit ``most``.
CONTEXT_STEP = 1024


def plan(
    spec: ModelSpec,
    dtype: str,
    context: int,
    vram: int | None,
    ram: int,
    wanted: Mapping[str, Any] | None = None,
) -> Plan:
    """Choose settings for a context of ``context`` tokens.

    The plan is full attention if it fits and a step reads at most twice the bytes of LRQK. Otherwise it is
    LRQK with rank 64 and 4 bits. More memory first raises the hot rows from 1,024 to 4,096 with short
    segments, then the segments, then the hot rows up to the default. Rank 32 is the last resort. A CPU gets
    the defaults. Weights are plain numbers if full attention or 4,096 hot rows fit beside them. Otherwise
    they have the finest of ``spec.forms`` beside which these fit, or the coarsest one with a plan. If there
    is no plan and ``spec.may_offload``, packed experts stay in host memory, in the coarsest form.

    Args:
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.
        vram, ram: free bytes on the device and on the host; ``vram`` is None for a CPU.
        wanted: fields of ``LrqkConfig`` that the user set; the plan keeps them.

    Raises:
        OutOfMemoryError: nothing fits; the hint names the nearest settings that do.
        UsageError: the wanted fields contradict each other.
    """
    found = find(spec, dtype, context, vram, ram, wanted)
    if found is None:
        raise _refusal(PlanTask(spec, dtype, context, vram, ram, wanted or {}))
    return found


def find(
    spec: ModelSpec,
    dtype: str,
    context: int,
    vram: int | None,
    ram: int,
    wanted: Mapping[str, Any] | None = None,
) -> Plan | None:
    """Return the plan that ``plan`` chooses; None if nothing fits."""
    found = _find(replace(spec, may_offload=False), dtype, context, vram, ram, wanted)
    if found is None and spec.may_offload and vram is not None:
        offloaded = replace(spec.with_experts_on_host(), may_offload=False)
        found = _find(offloaded, dtype, context, vram, ram, wanted)
    return found


def _find(
    spec: ModelSpec,
    dtype: str,
    context: int,
    vram: int | None,
    ram: int,
    wanted: Mapping[str, Any] | None,
) -> Plan | None:
    poor = None
    for form in _forms(spec, vram):
        task = PlanTask(form, dtype, context, vram, ram, wanted or {})
        found = next(filter(None, _choices(task)), None)
        if found is not None and ("hot" in task.wanted or not is_poor(found)):
            return found
        poor = found or poor
    return poor


def is_poor(found: Plan) -> bool:
    """Return whether a plan has so few hot rows that coarser weights would cost less quality."""
    return found.config.attention == "lrqk" and found.config.hot < _GOOD_HOT


def _forms(spec: ModelSpec, vram: int | None) -> list[ModelSpec]:
    """Return the model once for each form of its weights, the finest first."""
    packed = [replace(spec, packed=form, forms=()) for form in spec.forms] if vram is not None else []
    return [replace(spec, forms=()), *packed]


def longest_context(
    spec: ModelSpec,
    dtype: str,
    vram: int | None,
    ram: int,
    most: int,
    wanted: Mapping[str, Any] | None = None,
) -> int:
    """Return the longest context in tokens that fits, up to ``most``: a multiple of 1,024, or ``most``."""
    if find(spec, dtype, most, vram, ram, wanted):
        return most
    fits, fails = 0, -(-most // CONTEXT_STEP)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if find(spec, dtype, middle * CONTEXT_STEP, vram, ram, wanted):
            fits = middle
        else:
            fails = middle
    return fits * CONTEXT_STEP


def what_fits(
    spec: ModelSpec,
    dtype: str,
    most: int,
    vram: int | None,
    ram: int,
    wanted: Mapping[str, Any] | None = None,
) -> str:
    """Return a hint for a loaded model whose memory has run out: what fits now.

    Args:
        most: tokens of a context that is worth naming.
        vram, ram: bytes that are free or the model's own.
    """
    loaded = replace(spec, forms=(), may_offload=False)
    return _nearest(PlanTask(loaded, dtype, most, vram, ram, wanted or {}))


def _choices(task: PlanTask) -> Iterator[Plan | None]:
    """Yield plans, the best first, and None for those that do not fit."""
    if task.vram is None:
        yield task.attempt("A CPU gets the default settings.", segment=CPU_SEGMENT)
        return
    mode = task.wanted.get("attention")
    # Full attention on the device cannot have rows of 8 bits either.
    asks_for_lrqk = SETTINGS_OF_LRQK & task.wanted.keys() or task.wanted.get("kv_dtype", "bf16") != "bf16"
    may_be_dense = mode == "dense" or (mode is None and not asks_for_lrqk)
    is_slow = mode is None and may_be_dense and _dense_is_slow(task)
    if may_be_dense and not is_slow:
        yield from _dense_choices(task)
    if mode == "offload":
        for segment in task.segments:
            yield task.attempt("All rows are streamed, as asked.", segment=segment)
    if mode in (None, "lrqk"):
        yield from _lrqk_choices(task)
    if is_slow:
        # Full attention needs no host memory for KV rows, so it may fit where LRQK does not.
        yield from _dense_choices(task)


def _dense_choices(task: PlanTask) -> Iterator[Plan | None]:
    for segment in task.segments:
        yield task.attempt("All rows fit on the device.", attention="dense", segment=segment)


def _dense_is_slow(task: PlanTask) -> bool:
    lrqk = task.read(attention="lrqk", rank=_RANK, index_bits=_BITS, hot=_MOST_HOT)
    return task.read(attention="dense") > _WORTHWHILE * lrqk


def _lrqk_choices(task: PlanTask) -> Iterator[Plan | None]:
    ordinary: dict[str, Any] = {"attention": "lrqk", "rank": _RANK, "index_bits": _BITS}
    if "hot" in task.wanted or task.wanted.get("hot_policy", "sticky") != "sticky":
        for segment in task.segments:
            yield task.attempt("The hot rows are as asked.", segment=segment, **ordinary)
        yield _last_resort(task, ordinary)
        return
    most, good, least = _hot_bounds(task)
    longest = task.segments[0]
    yield task.attempt("As many hot rows as are worth reading.", segment=longest, hot=most, **ordinary)
    why = "As many hot rows as the memory holds."
    yield _most_hot(task, why, good, most, segment=longest, **ordinary)
    # Shorter segments get at most ``good`` hot rows, so that more memory never means fewer hot rows.
    for segment in task.segments[1:]:
        yield task.attempt(
            "A shorter segment leaves room for hot rows.", segment=segment, hot=good, **ordinary
        )
    why = "The shortest segment, and as many hot rows as the memory holds."
    yield _most_hot(task, why, least, good, segment=task.segments[-1], **ordinary)
    yield _last_resort(task, {**ordinary, "hot": least})


def _last_resort(task: PlanTask, chosen: Mapping[str, Any]) -> Plan | None:
    least = {**chosen, "segment": task.segments[-1], "rank": _LEAST_RANK}
    return task.attempt("The least that still works: a narrow index and few hot rows.", **least)


def _hot_bounds(task: PlanTask) -> tuple[int, int, int]:
    """Return the most hot rows to choose, the preferred number, and the fewest."""
    demanded = -(-(task.wanted.get("top_k") or 1) // HOT_STEP) * HOT_STEP
    return max(demanded, _MOST_HOT), max(demanded, _GOOD_HOT), max(demanded, LEAST_HOT)


def _most_hot(task: PlanTask, why: str, least: int, most: int, **chosen: Any) -> Plan | None:
    """Return the plan with the most hot rows that fit; None if ``least`` rows do not fit."""
    best = task.attempt(why, hot=least, **chosen)
    if best is None:
        return None
    fits, fails = least // HOT_STEP, most // HOT_STEP + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        found = task.attempt(why, hot=middle * HOT_STEP, **chosen)
        if found is None:
            fails = middle
        else:
            fits, best = middle, found
    return best


def _refusal(task: PlanTask) -> OutOfMemoryError:
    smallest: dict[str, Any] = {"attention": "lrqk", "rank": _LEAST_RANK, "index_bits": _BITS}
    smallest |= {"hot": LEAST_HOT, "segment": SEGMENTS[-1]}
    if task.vram is None:
        smallest = {"hot": _MOST_HOT, "segment": CPU_SEGMENT}
    wanted = {**smallest, **task.wanted}
    spec = task.spec.with_experts_on_host() if task.spec.may_offload else task.spec
    coarsest = _forms(spec, task.vram)[-1]
    least = estimate(coarsest, LrqkConfig(**_demandable(wanted)), task.context, task.dtype)
    short, needed, there = "host", least.beside_device, task.ram
    if task.vram is None:
        needed = least.on_host
    elif least.total > task.vram:
        short, needed, there = "device", least.total, task.vram
    return OutOfMemoryError(
        f"{task.spec.name} with a context of {task.context:,} tokens needs at least {_gib_up(needed)} of "
        f"{short} memory in {task.dtype}, and {there / 2**30:.2f} GiB are available.",
        _nearest(task),
    )


def _demandable(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with a hot set of at least ``top_k`` rows."""
    hot = max(wanted["hot"], wanted.get("top_k") or 1)
    return {**wanted, "hot": hot, "top_k": wanted.get("top_k") or default_top_k(hot)}


def _nearest(task: PlanTask) -> str:
    """Return a hint: the longest context that fits, or another change that helps."""
    arguments = task.vram, task.ram, task.context, task.wanted
    longest = longest_context(task.spec, task.dtype, *arguments)
    ways = [f"`context` {longest} or less"] if longest else []
    if _fits_in_8_bits(task):
        ways.append("`kv_dtype` int8, which takes half the host memory")
    if ways:
        return f"Choose {', or '.join(ways)}."
    if task.dtype == "float32" and (half := longest_context(task.spec, "bfloat16", *arguments)):
        return f"Choose `dtype` bfloat16, where `context` {half} fits."
    if task.wanted and (free := longest_context(task.spec, task.dtype, *arguments[:3])):
        return f"Without {', '.join(f'`{name}`' for name in task.wanted)}, `context` {free} fits."
    if task.vram is None:
        return "Choose a smaller model."
    return "Choose a smaller model, or use `offload_weights`."


def _fits_in_8_bits(task: PlanTask) -> bool:
    """Return whether the task would fit with rows of 8 bits."""
    if task.wanted.get("attention") == "dense":
        return False
    wanted = {"kv_dtype": "int8", **task.wanted}
    return find(task.spec, task.dtype, task.context, task.vram, task.ram, wanted) is not None


def _gib_up(size: int) -> str:
    """Return a size rounded up, so that a size that does not fit never reads as one that does."""
    return f"{math.ceil(size / 2**30 * 100) / 100:.2f} GiB"
