"""From the memory there is to the settings of the best answers that fit into it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lrqk_cli.config import LrqkConfig, ModelSpec, WeightForm, default_top_k
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.accounting import kv_bytes, weight_bytes, weight_bytes_read
from lrqk_cli.memory.budget import Budget
from lrqk_cli.memory.estimate import CPU_SEGMENT, DEFAULT_SEGMENT, DeviceEstimate, estimate

_SEGMENTS = (DEFAULT_SEGMENT, 4096, 2048, 1024)
_RANK, _LEAST_RANK = 64, 32
_BITS = 4
# Hot rows: the step between choices, the fewest, those that come before a longer segment, and the most. More
# would gain little quality (docs/quality.md), and every one of them is read in every step.
_STEP, _LEAST_HOT, _GOOD_HOT, _MOST_HOT = 64, 1024, 4096, LrqkConfig().hot
# Full attention that reads more than so many times the bytes of LRQK in a step is not worth its exactness.
_WORTHWHILE = 2
# A longest context is a multiple of this, or the most that was asked about.
CONTEXT_STEP = 1024
# Naming one of these asks for LRQK.
_OF_LRQK = frozenset(
    {"rank", "index_bits", "hot", "top_k", "recent", "tail", "solver", "grouping", "hot_policy", "als"}
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that fit.

    Attributes:
        spec: of the model, its weights in the form that was chosen.
        config: with ``segment`` set.
        context: tokens that they are for.
        budget: what there was.
        why: one sentence that gives the reason for them.
    """

    spec: ModelSpec
    config: LrqkConfig
    context: int
    budget: Budget
    estimate: DeviceEstimate
    why: str

    @property
    def form(self) -> WeightForm | None:
        """The packed form of the weights; None for plain numbers."""
        return self.spec.packed.form if self.spec.packed is not None else None

    @property
    def segment(self) -> int:
        """Tokens that go through the model at once while reading."""
        return self.config.segment or DEFAULT_SEGMENT


@dataclass(frozen=True, slots=True)
class _Task:
    """What all choices have in common; arguments as in ``plan``."""

    spec: ModelSpec
    dtype: str
    context: int
    vram: int | None
    ram: int
    wanted: Mapping[str, Any]

    def config(self, **chosen: Any) -> LrqkConfig:
        """Return settings as chosen, except where others were asked for."""
        merged = {**chosen, **self.wanted}
        if "hot" in merged and "top_k" not in merged:
            merged["top_k"] = default_top_k(merged["hot"])
        return LrqkConfig(**merged)

    def attempt(self, why: str, **chosen: Any) -> Plan | None:
        """Return the plan of these settings if it fits."""
        config = self.config(**chosen)
        needed = estimate(self.spec, config, self.context, self.dtype)
        if not self.has_room(needed):
            return None
        return Plan(self.spec, config, self.context, Budget(self.vram, self.ram), needed, why)

    def has_room(self, needed: DeviceEstimate) -> bool:
        """Tell whether so much memory is there."""
        if self.vram is None:
            return needed.on_host <= self.ram
        return needed.total <= self.vram and needed.host_kv <= self.ram

    def read(self, **chosen: Any) -> int:
        """Return the bytes that a decode step reads at the end of the context."""
        weights = weight_bytes_read(self.spec, self.dtype) or weight_bytes(self.spec, self.dtype)
        return weights + kv_bytes(self.spec, self.config(**chosen), self.context, self.dtype).read

    @property
    def segments(self) -> tuple[int, ...]:
        """Segments to try, in their order."""
        return (self.wanted["segment"],) if self.wanted.get("segment") else _SEGMENTS


def plan(
    spec: ModelSpec,
    dtype: str,
    context: int,
    vram: int | None,
    ram: int,
    wanted: Mapping[str, Any] | None = None,
) -> Plan:
    """Choose settings for a context of ``context`` tokens.

    Full attention where all of it fits, unless a step would read more than twice the bytes of LRQK. Else LRQK
    with rank 64 and 4 bits: at least 1,024 hot rows; up to 4,096 with short segments; then longer segments;
    then more hot rows, up to the default. Rank 32 is the last resort. A CPU gets the defaults. Weights are
    plain numbers where something with 4,096 hot rows fits beside them, else in the finest of ``spec.forms``
    beside which it does; where none leaves as much room, in the coarsest.

    Args:
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.
        vram, ram: bytes that are free on the device and on the host; for a CPU there is only the host's.
        wanted: fields of ``LrqkConfig`` that were asked for; they stay as they are.

    Raises:
        OutOfMemoryError: nothing fits; the hint names the nearest that does.
        UsageError: what was asked for contradicts itself.
    """
    found = find(spec, dtype, context, vram, ram, wanted)
    if found is None:
        raise _refusal(_Task(spec, dtype, context, vram, ram, wanted or {}))
    return found


def find(
    spec: ModelSpec,
    dtype: str,
    context: int,
    vram: int | None,
    ram: int,
    wanted: Mapping[str, Any] | None = None,
) -> Plan | None:
    """Return what ``plan`` chooses; None where nothing fits."""
    poor = None
    for form in _forms(spec, vram):
        task = _Task(form, dtype, context, vram, ram, wanted or {})
        found = next(filter(None, _choices(task)), None)
        if found is not None and ("hot" in task.wanted or not is_poor(found)):
            return found
        poor = found or poor
    return poor


def is_poor(found: Plan) -> bool:
    """Tell whether a plan has so few hot rows that they cost more than coarser weights would."""
    return found.config.attention == "lrqk" and found.config.hot < _GOOD_HOT


def _forms(spec: ModelSpec, vram: int | None) -> list[ModelSpec]:
    """Return the model with its weights in each form that it may have, the finest first."""
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
    """Return the most tokens, up to ``most``, for which something fits: a multiple of 1,024, or ``most``."""
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


def _choices(task: _Task) -> Iterator[Plan | None]:
    """Yield what fits, best first."""
    if task.vram is None:
        yield task.attempt("A CPU gets the default settings.", segment=CPU_SEGMENT)
        return
    mode = task.wanted.get("attention")
    may_be_dense = mode == "dense" or (mode is None and not _OF_LRQK & task.wanted.keys())
    is_slow = mode is None and may_be_dense and _dense_is_slow(task)
    if may_be_dense and not is_slow:
        yield from _dense_choices(task)
    if mode == "offload":
        for segment in task.segments:
            yield task.attempt("All rows are streamed, as asked.", segment=segment)
    if mode in (None, "lrqk"):
        yield from _lrqk_choices(task)
    if is_slow:
        # Where host memory is short, the device's may not be.
        yield from _dense_choices(task)


def _dense_choices(task: _Task) -> Iterator[Plan | None]:
    for segment in task.segments:
        yield task.attempt("All rows fit on the device.", attention="dense", segment=segment)


def _dense_is_slow(task: _Task) -> bool:
    lrqk = task.read(attention="lrqk", rank=_RANK, index_bits=_BITS, hot=_MOST_HOT)
    return task.read(attention="dense") > _WORTHWHILE * lrqk


def _lrqk_choices(task: _Task) -> Iterator[Plan | None]:
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
    # With shorter segments no more than ``good``, so that more memory never means fewer hot rows.
    for segment in task.segments[1:]:
        yield task.attempt(
            "A shorter segment leaves room for hot rows.", segment=segment, hot=good, **ordinary
        )
    why = "The shortest segment, and as many hot rows as the memory holds."
    yield _most_hot(task, why, least, good, segment=task.segments[-1], **ordinary)
    yield _last_resort(task, {**ordinary, "hot": least})


def _last_resort(task: _Task, chosen: Mapping[str, Any]) -> Plan | None:
    least = {**chosen, "segment": task.segments[-1], "rank": _LEAST_RANK}
    return task.attempt("The least that still works: a narrow index and few hot rows.", **least)


def _hot_bounds(task: _Task) -> tuple[int, int, int]:
    """Return the most hot rows that make sense, those to prefer, and the fewest."""
    demanded = _rounded_up(task.wanted.get("top_k") or 1)
    return max(demanded, _MOST_HOT), max(demanded, _GOOD_HOT), max(demanded, _LEAST_HOT)


def _rounded_up(rows: int) -> int:
    return -(-rows // _STEP) * _STEP


def _most_hot(task: _Task, why: str, least: int, most: int, **chosen: Any) -> Plan | None:
    """Return the plan with the most hot rows that fit; None where not even the least do."""
    best = task.attempt(why, hot=least, **chosen)
    if best is None:
        return None
    fits, fails = least // _STEP, most // _STEP + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        found = task.attempt(why, hot=middle * _STEP, **chosen)
        if found is None:
            fails = middle
        else:
            fits, best = middle, found
    return best


def _refusal(task: _Task) -> OutOfMemoryError:
    smallest: dict[str, Any] = {"attention": "lrqk", "rank": _LEAST_RANK, "index_bits": _BITS}
    smallest |= {"hot": _LEAST_HOT, "segment": _SEGMENTS[-1]}
    if task.vram is None:
        smallest = {"hot": _MOST_HOT, "segment": CPU_SEGMENT}
    wanted = {**smallest, **task.wanted}
    coarsest = _forms(task.spec, task.vram)[-1]
    least = estimate(coarsest, LrqkConfig(**_demandable(wanted)), task.context, task.dtype)
    short, needed, there = "host", least.host_kv, task.ram
    if task.vram is None:
        needed = least.on_host
    elif least.total > task.vram:
        short, needed, there = "device", least.total, task.vram
    return OutOfMemoryError(
        f"{task.spec.name} with a context of {task.context:,} tokens needs at least {_gib_up(needed)} of "
        f"{short} memory in {task.dtype}, and {_gib(there)} are available.",
        _nearest(task),
    )


def _demandable(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings whose hot set holds what a step demands."""
    hot = max(wanted["hot"], wanted.get("top_k") or 1)
    return {**wanted, "hot": hot, "top_k": wanted.get("top_k") or default_top_k(hot)}


def _nearest(task: _Task) -> str:
    """Return the hint: the longest context that fits, or what else would help."""
    arguments = task.vram, task.ram, task.context, task.wanted
    longest = longest_context(task.spec, task.dtype, *arguments)
    if longest:
        return f"Choose --ctx {longest} or less."
    if task.dtype == "float32" and (half := longest_context(task.spec, "bfloat16", *arguments)):
        return f"Choose --dtype bfloat16, where --ctx {half} fits."
    if task.wanted and (free := longest_context(task.spec, task.dtype, *arguments[:3])):
        return f"Leave {_flags(task.wanted)} out: then --ctx {free} fits."
    if task.vram is None:
        return "Choose a smaller model."
    return "Choose a smaller model, or chat with --offload-weights."


def _flags(wanted: Mapping[str, Any]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in wanted)


def _gib_up(size: int) -> str:
    """Round up, so that what is short never reads as enough."""
    return f"{math.ceil(size / 2**30 * 100) / 100:.2f} GiB"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
