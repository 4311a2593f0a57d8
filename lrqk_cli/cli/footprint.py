"""What a model and a context take: the report of ``lrqk info --model``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import LrqkConfig, WeightChoice
from lrqk_cli.memory.budget import Budget

if TYPE_CHECKING:
    from lrqk_cli.config import ModelSpec
    from lrqk_cli.memory.machine import Machine
    from lrqk_cli.models.describe import Description

_GIB = 1 << 30
CARDS = (6, 8, 12, 16, 24, 32)
CONTEXTS = tuple(1 << shift for shift in range(13, 20))
# Where nothing is said of host memory, another machine has enough.
AMPLE = 1 << 60
# Tokens of a long document, such as a book.
_USUAL = 1 << 16
# What cards compute in, unless the user says otherwise.
CARD_DTYPE = "bfloat16"


@dataclass(frozen=True, slots=True)
class FootprintRequest:
    """What was asked for.

    Attributes:
        settings: as the flags and their defaults say.
        wanted: the fields of them that were said.
        weights: their form; that on a GPU where ``vram`` stands for a card.
        vram, ram: bytes; None where nothing is said. ``vram`` stands for a card, whatever is in this machine;
            beside it, host memory is no limit unless ``ram`` is one.
    """

    model: str
    context: int | None
    settings: LrqkConfig
    wanted: Mapping[str, Any]
    device: str | None
    dtype: str | None
    vram: int | None
    ram: int | None
    weights: WeightChoice = "auto"


def footprint(question: FootprintRequest) -> dict[str, Any]:
    """Return the report, ready for JSON; sizes in bytes.

    Raises:
        ModelError: the model cannot be described.
        UsageError: the context is beyond the model's, or there is no such device.
        OutOfMemoryError: nothing fits into ``vram`` and ``ram``.
    """
    from lrqk_cli.chat.opening import reserved_context
    from lrqk_cli.memory import planner
    from lrqk_cli.memory.budget import host_budget
    from lrqk_cli.memory.estimate import estimate
    from lrqk_cli.models.describe import describe

    described = describe(question.model)
    context = reserved_context(question.context, described.spec)
    machine, dtype = _place(question, described)
    on_card = described.with_weights(question.weights, on_gpu=True)
    # Who asks for packed weights, or for a card, has a GPU in mind.
    in_mind = question.vram is not None or question.weights in ("q8", "q4")
    spec = on_card if in_mind or _is_cuda(machine, question) else described.with_weights("bf16", on_gpu=False)
    budget = question.vram or (machine.free if machine else None)
    settings, why = question.settings, None
    if budget is not None:
        choose = planner.plan if question.vram else planner.find
        chosen = choose(spec, dtype, context, budget, _ram(question), question.wanted)
        # Of this machine's own memory nothing was promised: what does not fit is shown as it is.
        if chosen is not None:
            spec, settings, why = chosen.spec, chosen.settings, chosen.why
    needed = estimate(spec, settings, context, dtype)
    dense = estimate(spec, replace(settings, attention="dense"), context, dtype)
    return {
        "model": question.model,
        "architecture": spec.architecture,
        "parameters": spec.num_parameters,
        "shape": _shape(spec),
        "ctx": context,
        "dtype": dtype,
        "weights": spec.packed.form if spec.packed else "bf16",
        "attention": asdict(settings),
        "why": why,
        "device_memory": {**needed.items, "total": needed.total},
        "host_memory": {"kv_rows": needed.host_kv, "free": host_budget(question.ram)},
        "full_attention_device_memory": dense.total,
        "budget": budget,
        "longest_context": _longest(question, spec, dtype, budget),
        "cards_dtype": question.dtype or CARD_DTYPE,
        "cards": _cards(question, on_card),
        "predicted": _predicted(machine, spec, settings, context, dtype),
    }


def card(
    vram: int, ram: int | None, dtype: str | None, weights: WeightChoice, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the longest contexts of all known models on a card, ready for JSON; sizes in bytes.

    Args:
        vram: of the card.
        ram: of host memory beside it; None where it is no limit.
        dtype: None for what cards compute in.
        weights: their form, where a model can have it.
        wanted: settings that were said.
    """
    from lrqk_cli.models import catalog, shapes

    dtype, ram = dtype or CARD_DTYPE, ram or AMPLE
    names = dict.fromkeys((*catalog.catalog(), *shapes.shapes()))
    return {
        "device_bytes": vram,
        "dtype": dtype,
        "models": [longest_text(name, dtype, weights, Budget(vram, ram), wanted) for name in names],
    }


def longest_text(
    name: str, dtype: str, weights: WeightChoice, budget: Budget, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the longest text takes that fits, ready for JSON; sizes in bytes.

    Args: see ``card``; ``budget`` without ``vram`` is a CPU's.
    """
    from lrqk_cli.memory import planner
    from lrqk_cli.memory.accounting import weight_bytes
    from lrqk_cli.models.describe import describe

    described = describe(name)
    is_file = any(form.form == "gguf" for form in described.spec.forms)
    # A file has one packed form, its own.
    chosen_form = "auto" if is_file and weights != "bf16" else weights
    spec = described.with_weights(chosen_form, on_gpu=budget.vram is not None)
    most = spec.max_context
    full = {name: wanted[name] for name in wanted if name == "segment"} | {"attention": "dense"}
    longest = planner.longest_context(spec, dtype, *budget, most, wanted)
    chosen = planner.find(spec, dtype, longest, *budget, wanted) if longest else None
    usual = planner.find(spec, dtype, min(most, _USUAL), *budget, wanted)
    shown = chosen.spec if chosen else spec
    return {
        "name": name,
        "weights": shown.packed.form if shown.packed else "bf16",
        "weight_bytes": weight_bytes(shown, dtype),
        "parameters": spec.num_parameters,
        "max_context": most,
        "longest_context": longest,
        "is_comfortable": usual is not None and not planner.is_poor(usual),
        "longest_full_attention": planner.longest_context(spec, dtype, *budget, most, full),
        "host_kv_rows": chosen.estimate.host_kv if chosen else None,
    }


def _is_cuda(machine: Machine | None, question: FootprintRequest) -> bool:
    if machine is not None:
        return machine.name is not None
    from lrqk_cli.models.devices import choose_device

    return choose_device(question.device).type == "cuda"


def _place(question: FootprintRequest, described: Description) -> tuple[Machine | None, str]:
    """Return the machine, None where only torch knows it, and the element type to count with."""
    from lrqk_cli.memory.machine import detect_machine

    machine = detect_machine(question.device)
    dtype = question.dtype or (CARD_DTYPE if question.vram else None)
    if dtype is not None and (machine is not None or question.device is None):
        return machine, dtype
    if machine is not None:
        if not machine.has_bfloat16:
            return machine, "float16" if machine.name else "float32"
        return machine, "float16" if machine.name and described.dtype == "float16" else "bfloat16"
    from lrqk_cli.memory.accounting import dtype_name
    from lrqk_cli.models.devices import resolve_device_dtype

    return None, dtype_name(resolve_device_dtype(question.device, dtype, described.dtype)[1])


def _ram(question: FootprintRequest) -> int:
    from lrqk_cli.memory.budget import host_budget

    return question.ram or (AMPLE if question.vram else host_budget())


def _longest(question: FootprintRequest, spec: ModelSpec, dtype: str, budget: int | None) -> int | None:
    from lrqk_cli.memory import planner

    if budget is None:
        return None
    return planner.longest_context(spec, dtype, budget, _ram(question), spec.max_context, question.wanted)


def _cards(question: FootprintRequest, spec: ModelSpec) -> list[dict[str, Any]]:
    """Return what the planner would choose on common cards, beside which host memory is no limit."""
    from lrqk_cli.memory import planner

    dtype, ram = question.dtype or CARD_DTYPE, question.ram or AMPLE
    cells = []
    for card in CARDS:
        for context in CONTEXTS:
            found = planner.find(spec, dtype, context, card * _GIB, ram, question.wanted)
            cells.append(
                {
                    "device_bytes": card * _GIB,
                    "ctx": context,
                    "weights": found.form or "bf16" if found else None,
                    "attention": found.settings.attention if found else None,
                    "hot": found.settings.hot if found and found.settings.attention == "lrqk" else None,
                }
            )
    return cells


def _predicted(
    machine: Machine | None, spec: ModelSpec, settings: LrqkConfig, context: int, dtype: str
) -> dict[str, Any] | None:
    """Return the most tokens a second that the memory's bandwidth allows; None where it is not known."""
    from lrqk_cli.memory.roofline import Bandwidth, step_bytes

    if machine is None or machine.bandwidth is None:
        return None
    speeds = []
    for of_mode in (settings, replace(settings, attention="dense")):
        read = step_bytes(spec, of_mode, context, dtype)
        if read is None:
            return None
        speeds.append(read.tokens_per_second(Bandwidth(machine.bandwidth, None)))
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
