"""The memory for a model and a context, and the longest text that fits, for ``lrqk info`` and ``models``.

The fields are named and ordered as in the JSON of these commands; sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrqk_cli.config import AttentionMode, LrqkConfig, WeightChoice, full_attention
from lrqk_cli.memory import planner
from lrqk_cli.memory.accounting import host_weight_bytes, weight_bytes
from lrqk_cli.memory.budget import Budget, host_budget
from lrqk_cli.memory.estimate import estimate
from lrqk_cli.memory.machine import Machine
from lrqk_cli.memory.plan import Plan
from lrqk_cli.memory.roofline import Bandwidth, step_bytes
from lrqk_cli.model_spec import ModelSpec

_GIB = 1 << 30
CARDS = (6, 8, 12, 16, 24, 32)
CONTEXTS = tuple(1 << shift for shift in range(13, 20))
# Bytes of host memory of another machine that the user has not limited.
AMPLE = 1 << 60
# Tokens of a long document, such as a book.
_USUAL = 1 << 16
# The element type on cards, unless the user gives one.
CARD_DTYPE = "bfloat16"


@dataclass(frozen=True, slots=True)
class FootprintRequest:
    """The options of a request.

    Attributes:
        config: the settings of options and defaults.
        wanted: the fields of it that the user set.
        weights: their form; on the card if ``vram`` is given.
        offload_weights: packed experts may stay in host memory.
        vram, ram: bytes; None if not given. ``vram`` is the size of a card, whatever is in this machine; with
            it, only ``ram`` limits host memory.
    """

    model: str
    context: int | None
    config: LrqkConfig
    wanted: Mapping[str, Any]
    device: str | None
    dtype: str | None
    vram: int | None
    ram: int | None
    weights: WeightChoice = "auto"
    offload_weights: bool = False


@dataclass(frozen=True, slots=True)
class FootprintShape:
    """The displayed part of a ``ModelSpec``."""

    layers: int
    full_attention_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_context: int
    trained_context: int


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of the KV rows and of weights in host memory, and bytes free for them."""

    kv_rows: int
    free: int
    weights: int = 0


@dataclass(frozen=True, slots=True)
class CardCell:
    """The planner's choice for ``ctx`` tokens on a card: None where nothing fits.

    Attributes:
        hot: for LRQK only.
        experts_on_host: the experts of the packed weights stay in host memory.
    """

    device_bytes: int
    ctx: int
    weights: str | None = None
    attention: AttentionMode | None = None
    hot: int | None = None
    experts_on_host: bool = False


@dataclass(frozen=True, slots=True)
class PredictedSpeed:
    """The most tokens per second that memory bandwidth allows."""

    bandwidth_bytes_per_s: float
    decode_tokens_per_s: float
    full_attention_decode_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that a model and a context need.

    Attributes:
        ctx: tokens reserved.
        weights: their form.
        why: the planner's reason for the settings ``attention``; None if it did not choose them.
        device_memory: the items of ``DeviceEstimate``, and their ``total``.
        budget: bytes of the device to plan for; None for a CPU, and if only torch can tell.
        longest_context: the most tokens that fit into the budget.
        cards: a cell for each of ``CONTEXTS`` on each of ``CARDS``, cards outermost.
        predicted: None if the bandwidth is unknown.
    """

    model: str
    architecture: str
    parameters: int
    shape: FootprintShape
    ctx: int
    dtype: str
    weights: str
    attention: LrqkConfig
    why: str | None
    device_memory: Mapping[str, int]
    host_memory: HostMemory
    full_attention_device_memory: int
    budget: int | None
    longest_context: int | None
    cards_dtype: str
    cards: tuple[CardCell, ...]
    predicted: PredictedSpeed | None


@dataclass(frozen=True, slots=True)
class LongestText:
    """The longest text of a model that fits, in tokens; 0 where nothing fits.

    Attributes:
        weights, weight_bytes: their form beside that text, and their bytes in it.
        is_comfortable: a long document fits with enough hot rows.
        host_kv_rows: bytes in host memory; None where nothing fits.
        host_weights: bytes of weights in host memory.
    """

    name: str
    weights: str
    weight_bytes: int
    parameters: int
    max_context: int
    longest_context: int
    is_comfortable: bool
    longest_full_attention: int
    host_kv_rows: int | None
    host_weights: int = 0


@dataclass(frozen=True, slots=True)
class CardReport:
    """The longest texts of all known models on a card."""

    device_bytes: int
    dtype: str
    models: tuple[LongestText, ...]


def footprint(
    question: FootprintRequest,
    spec: ModelSpec,
    on_card: ModelSpec,
    context: int,
    dtype: str,
    machine: Machine | None,
) -> Footprint:
    """Return the memory that a model needs, with the planner's settings if the budget is known.

    Args:
        spec: the model, with its weights in the form of this request.
        on_card: the model, with its weights in their form on a card.
        context: tokens to reserve.
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.
        machine: the machine to compute on; None if only torch can describe it.

    Raises:
        OutOfMemoryError: nothing fits into ``vram`` and ``ram``.
    """
    budget = question.vram or (machine.free if machine else None)
    ram = question.ram or (AMPLE if question.vram else host_budget())
    config, why, longest = question.config, None, None
    if budget is not None:
        choose = planner.plan if question.vram else planner.find
        chosen = choose(spec, dtype, context, budget, ram, question.wanted)
        # Without ``vram``, settings that do not fit are shown, not refused.
        if chosen is not None:
            spec, config, why = chosen.spec, chosen.config, chosen.why
        longest = planner.longest_context(spec, dtype, budget, ram, spec.max_context, question.wanted)
    needed = estimate(spec, config, context, dtype)
    dense = estimate(spec, full_attention(config), context, dtype)
    return Footprint(
        model=question.model,
        architecture=spec.architecture,
        parameters=spec.num_parameters,
        shape=FootprintShape(
            spec.num_layers,
            spec.num_full_layers,
            spec.num_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.max_context,
            spec.trained_context,
        ),
        ctx=context,
        dtype=dtype,
        weights=_form(spec),
        attention=config,
        why=why,
        device_memory={**needed.items, "total": needed.total},
        host_memory=HostMemory(needed.host_kv, host_budget(question.ram), needed.host_weights),
        full_attention_device_memory=dense.total,
        budget=budget,
        longest_context=longest,
        cards_dtype=question.dtype or CARD_DTYPE,
        cards=_cards(question, on_card),
        predicted=_predicted(machine, spec, config, context, dtype),
    )


def longest_text(spec: ModelSpec, dtype: str, budget: Budget, wanted: Mapping[str, Any]) -> LongestText:
    """Return the longest text that fits.

    Args:
        spec: the model; the planner chooses among its forms of weights.
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.
        budget: free bytes; without ``vram``, those of a CPU.
        wanted: settings that the user set.
    """
    most = spec.max_context
    full = {name: wanted[name] for name in wanted if name == "segment"} | {"attention": "dense"}
    longest = planner.longest_context(spec, dtype, *budget, most, wanted)
    chosen = planner.find(spec, dtype, longest, *budget, wanted) if longest else None
    usual = planner.find(spec, dtype, min(most, _USUAL), *budget, wanted)
    shown = chosen.spec if chosen else spec
    return LongestText(
        name=spec.name,
        weights=_form(shown),
        weight_bytes=weight_bytes(shown, dtype),
        parameters=spec.num_parameters,
        max_context=most,
        longest_context=longest,
        is_comfortable=usual is not None and not planner.is_poor(usual),
        longest_full_attention=planner.longest_context(spec, dtype, *budget, most, full),
        host_kv_rows=chosen.estimate.host_kv if chosen else None,
        host_weights=chosen.estimate.host_weights if chosen else 0,
    )


def _form(spec: ModelSpec) -> str:
    return spec.packed.form if spec.packed else "bf16"


def _cards(question: FootprintRequest, spec: ModelSpec) -> tuple[CardCell, ...]:
    """Return the planner's choices on common cards; host memory is unlimited without ``ram``."""
    dtype, ram = question.dtype or CARD_DTYPE, question.ram or AMPLE
    return tuple(
        _cell(card * _GIB, context, planner.find(spec, dtype, context, card * _GIB, ram, question.wanted))
        for card in CARDS
        for context in CONTEXTS
    )


def _cell(size: int, context: int, found: Plan | None) -> CardCell:
    if found is None:
        return CardCell(size, context)
    mode = found.config.attention
    hot = found.config.hot if mode == "lrqk" else None
    return CardCell(size, context, _form(found.spec), mode, hot, found.has_experts_on_host)


def _predicted(
    machine: Machine | None, spec: ModelSpec, config: LrqkConfig, context: int, dtype: str
) -> PredictedSpeed | None:
    # Without torch the bandwidth of the link is unknown.
    if machine is None or machine.bandwidth is None or host_weight_bytes(spec):
        return None
    modes = (config, full_attention(config))
    reads = [step_bytes(spec, of_mode, context, dtype) for of_mode in modes]
    speeds = [read.tokens_per_second(Bandwidth(machine.bandwidth, None)) for read in reads if read]
    return PredictedSpeed(machine.bandwidth, *speeds) if len(speeds) == len(reads) else None
