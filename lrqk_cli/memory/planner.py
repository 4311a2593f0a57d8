"""From the memory there is to the settings of the best answers that fit into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lrqk_cli.config import LrqkConfig, ModelSpec, default_top_k
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.estimate import DEFAULT_SEGMENT, DeviceEstimate, estimate

_SEGMENTS = (DEFAULT_SEGMENT, 4096, 2048, 1024)
_RANK, _LEAST_RANK = 64, 32
_BITS = 4
# Hot rows: the step between choices, the fewest, and those that come before a longer segment.
_STEP, _LEAST_HOT, _GOOD_HOT = 64, 1024, 4096
_CONTEXT_STEP = 1024
# Naming one of these asks for LRQK.
_OF_LRQK = frozenset(
    {"rank", "index_bits", "hot", "top_k", "recent", "tail", "solver", "grouping", "hot_policy", "als"}
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that fit.

    Attributes:
        settings: with ``segment`` set.
        why: one sentence that gives the reason for them.
    """

    settings: LrqkConfig
    estimate: DeviceEstimate
    why: str

    @property
    def segment(self) -> int:
        """Tokens that go through the model at once while reading."""
        return self.settings.segment or DEFAULT_SEGMENT


@dataclass(frozen=True, slots=True)
class _Task:
    """What all choices have in common; arguments as in ``plan``."""

    spec: ModelSpec
    dtype: str
    context: int
    vram: int
    ram: int
    wanted: Mapping[str, Any]

    def settings(self, **chosen: Any) -> LrqkConfig:
        """Return settings as chosen, except where others were asked for."""
        merged = {**chosen, **self.wanted}
        if "hot" in merged and "top_k" not in merged:
            merged["top_k"] = default_top_k(merged["hot"])
        return LrqkConfig(**merged)

    def attempt(self, why: str, **chosen: Any) -> Plan | None:
        """Return the plan of these settings if it fits."""
        settings = self.settings(**chosen)
        needed = estimate(self.spec, settings, self.context, self.dtype)
        if needed.total > self.vram or needed.host_kv > self.ram:
            return None
        return Plan(settings, needed, why)

    @property
    def segments(self) -> tuple[int, ...]:
        """Segments to try, in their order."""
        return (self.wanted["segment"],) if self.wanted.get("segment") else _SEGMENTS


def plan(
    spec: ModelSpec,
    dtype: str,
    context: int,
    vram: int,
    ram: int,
    wanted: Mapping[str, Any] | None = None,
) -> Plan:
    """Choose settings for a context of ``context`` tokens.

    Full attention where all of it fits. Else LRQK with rank 64 and 4 bits: at least 1,024 hot rows; up to
    4,096 with short segments; then longer segments; then as many hot rows as the memory holds. Rank 32 is the
    last resort.

    Args:
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.
        vram, ram: bytes that are free on the device and on the host.
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
    vram: int,
    ram: int,
    wanted: Mapping[str, Any] | None = None,
) -> Plan | None:
    """Return what ``plan`` chooses; None where nothing fits."""
    task = _Task(spec, dtype, context, vram, ram, wanted or {})
    return next((found for found in _choices(task) if found is not None), None)


def longest_context(
    spec: ModelSpec,
    dtype: str,
    vram: int,
    ram: int,
    most: int,
    wanted: Mapping[str, Any] | None = None,
) -> int:
    """Return the most tokens, up to ``most``, for which something fits: a multiple of 1,024, or ``most``."""
    if find(spec, dtype, most, vram, ram, wanted):
        return most
    fits, fails = 0, -(-most // _CONTEXT_STEP)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if find(spec, dtype, middle * _CONTEXT_STEP, vram, ram, wanted):
            fits = middle
        else:
            fails = middle
    return fits * _CONTEXT_STEP


def _choices(task: _Task) -> Iterator[Plan | None]:
    """Yield what fits, best first."""
    mode = task.wanted.get("attention")
    if mode == "dense" or (mode is None and not _OF_LRQK & task.wanted.keys()):
        for segment in task.segments:
            yield task.attempt("All rows fit on the device.", attention="dense", segment=segment)
    if mode == "offload":
        for segment in task.segments:
            yield task.attempt("All rows are streamed, as asked.", segment=segment)
    if mode in (None, "lrqk"):
        yield from _lrqk_choices(task)


def _lrqk_choices(task: _Task) -> Iterator[Plan | None]:
    ordinary: dict[str, Any] = {"attention": "lrqk", "rank": _RANK, "index_bits": _BITS}
    if "hot" in task.wanted or task.wanted.get("hot_policy", "sticky") != "sticky":
        for segment in task.segments:
            yield task.attempt("The hot rows are as asked.", segment=segment, **ordinary)
        yield _last_resort(task, ordinary)
        return
    most, good, least = _hot_bounds(task)
    longest = task.segments[0]
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
    most = max(_rounded_up(task.context), demanded)
    return most, max(demanded, min(_GOOD_HOT, most)), max(demanded, min(_LEAST_HOT, most))


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
    wanted = {"attention": "lrqk", "hot": _LEAST_HOT, "segment": _SEGMENTS[-1], **task.wanted}
    least = estimate(task.spec, LrqkConfig(**_demandable(wanted)), task.context, task.dtype)
    short = "device" if least.total > task.vram else "host"
    needed, there = (least.total, task.vram) if short == "device" else (least.host_kv, task.ram)
    return OutOfMemoryError(
        f"{task.spec.name} with a context of {task.context:,} tokens needs at least {_gib(needed)} of "
        f"{short} memory in {task.dtype}, and there are {_gib(there)}.",
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
    return "Choose a smaller model."


def _flags(wanted: Mapping[str, Any]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in wanted)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
