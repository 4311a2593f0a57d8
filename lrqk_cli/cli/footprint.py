"""What a model and a context take: the report of ``lrqk info --model``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import LrqkConfig

if TYPE_CHECKING:
    from lrqk_cli.config import ModelSpec
    from lrqk_cli.memory.machine import Machine
    from lrqk_cli.models.describe import Description

_GIB = 1 << 30
CARDS = (8, 12, 16, 24)
CONTEXTS = tuple(1 << shift for shift in range(13, 20))
# Where nothing is said of host memory, another machine has enough.
_AMPLE = 1 << 60


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for.

    Attributes:
        settings: as the flags and their defaults say.
        wanted: the fields of them that were said.
        vram, ram: bytes; None where nothing is said.
    """

    model: str
    context: int | None
    settings: LrqkConfig
    wanted: Mapping[str, Any]
    device: str | None
    dtype: str | None
    vram: int | None
    ram: int | None


def footprint(question: Question) -> dict[str, Any]:
    """Return the report, ready for JSON; sizes in bytes.

    Raises:
        ModelError: the model cannot be described.
        UsageError: the context is beyond the model's, or there is no such device.
        OutOfMemoryError: nothing fits into ``vram`` and ``ram``.
    """
    from lrqk_cli.chat.opening import reserved_context
    from lrqk_cli.memory import planner
    from lrqk_cli.memory.estimate import estimate
    from lrqk_cli.models.describe import describe

    described = describe(question.model)
    spec = described.spec
    context = reserved_context(question.context, spec)
    machine, dtype = _place(question, described)
    settings, why = question.settings, None
    if question.vram is not None:
        chosen = planner.plan(spec, dtype, context, question.vram, _ram(question), question.wanted)
        settings, why = chosen.settings, chosen.why
    needed = estimate(spec, settings, context, dtype)
    dense = estimate(spec, replace(settings, attention="dense"), context, dtype)
    budget = question.vram or (machine.free if machine else None)
    return {
        "model": question.model,
        "architecture": spec.architecture,
        "parameters": spec.num_parameters,
        "shape": _shape(spec),
        "ctx": context,
        "dtype": dtype,
        "attention": asdict(settings),
        "why": why,
        "device_memory": {**needed.items, "total": needed.total},
        "host_memory": {"kv_rows": needed.host_kv},
        "full_attention_device_memory": dense.total,
        "budget": budget,
        "longest_context": _longest(question, spec, dtype, budget),
        "cards": _cards(question, spec, dtype),
        "predicted": _roofline(machine, described, needed.items, dense.items, dtype),
    }


def _place(question: Question, described: Description) -> tuple[Machine | None, str]:
    """Return the machine, None where only torch knows it, and the element type."""
    from lrqk_cli.memory.machine import look

    machine = look(question.device)
    if question.dtype is not None and machine is not None:
        return machine, question.dtype
    if machine is not None:
        if not machine.has_bfloat16:
            return machine, "float16" if machine.name else "float32"
        return machine, "float16" if machine.name and described.dtype == "float16" else "bfloat16"
    import torch

    from lrqk_cli.models.devices import choose_device, choose_dtype

    published = getattr(torch, described.dtype) if described.dtype else None
    return None, str(choose_dtype(question.dtype, choose_device(question.device), published)).removeprefix(
        "torch."
    )


def _ram(question: Question) -> int:
    if question.ram is not None:
        return question.ram
    import psutil

    return int(psutil.virtual_memory().available)


def _longest(question: Question, spec: ModelSpec, dtype: str, budget: int | None) -> int | None:
    from lrqk_cli.memory import planner

    if budget is None:
        return None
    return planner.longest_context(spec, dtype, budget, _ram(question), spec.max_context, question.wanted)


def _cards(question: Question, spec: ModelSpec, dtype: str) -> list[dict[str, Any]]:
    """Return what the planner would choose on common cards, beside which host memory is no limit."""
    from lrqk_cli.memory import planner

    ram = question.ram or _AMPLE
    cells = []
    for card in CARDS:
        for context in CONTEXTS:
            found = planner.find(spec, dtype, context, card * _GIB, ram, question.wanted)
            cells.append(
                {
                    "device_bytes": card * _GIB,
                    "ctx": context,
                    "attention": found.settings.attention if found else None,
                    "hot": found.settings.hot if found and found.settings.attention == "lrqk" else None,
                }
            )
    return cells


def _roofline(
    machine: Machine | None,
    described: Description,
    needed: Mapping[str, int],
    dense: Mapping[str, int],
    dtype: str,
) -> dict[str, Any] | None:
    """Return the most tokens a second that the memory's bandwidth allows; None where it is not known."""
    from lrqk_cli.memory.accounting import ITEM_BYTES

    if machine is None or machine.bandwidth is None:
        return None
    weights = described.parameters_read * ITEM_BYTES[dtype]
    read = ("kv_rows", "index", "hot_rows", "sliding_windows")
    speeds = [machine.bandwidth / (weights + sum(items[name] for name in read)) for items in (needed, dense)]
    return {
        "bandwidth_bytes_per_s": machine.bandwidth,
        "decode_tokens_per_s": speeds[0],
        "full_attention_decode_tokens_per_s": speeds[1],
    }


def _shape(spec: ModelSpec) -> dict[str, Any]:
    return {
        "layers": spec.num_layers,
        "full_attention_layers": spec.num_full_layers,
        "heads": spec.num_heads,
        "kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "max_context": spec.max_context,
        "trained_context": spec.trained_context,
    }
