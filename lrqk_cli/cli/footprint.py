"""Footprints of the models, devices and element types that the command line names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import WeightChoice
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.memory.budget import Budget
from lrqk_cli.memory.footprint import AMPLE, CARD_DTYPE, CardReport, footprint, longest_text

if TYPE_CHECKING:
    from lrqk_cli.memory.footprint import Footprint, FootprintRequest, LongestText
    from lrqk_cli.memory.machine import Machine
    from lrqk_cli.models.describe import Description


def of_model(question: FootprintRequest) -> Footprint:
    """Return the memory that a model needs on this machine, or on a card.

    Raises:
        ModelError: the model cannot be described.
        UsageError: the context is longer than the model's limit, or there is no such device.
        OutOfMemoryError: nothing fits into ``vram`` and ``ram``.
    """
    from lrqk_cli.chat.opening import reserved_context
    from lrqk_cli.models.describe import describe

    described = describe(question.model)
    context = reserved_context(question.context, described.spec)
    machine, dtype = _place(question, described)
    on_card = described.with_weights(question.weights, on_gpu=True)
    on_card = replace(on_card, may_offload=question.offload_weights)
    # A user who asks for packed weights, or for a card, plans for a GPU.
    in_mind = question.vram is not None or question.weights in ("q8", "q4")
    spec = on_card if in_mind or _is_cuda(machine, question) else described.with_weights("bf16", on_gpu=False)
    return footprint(question, spec, on_card, context, dtype, machine)


def of_card(
    vram: int,
    ram: int | None,
    dtype: str | None,
    weights: WeightChoice,
    wanted: Mapping[str, Any],
    *,
    may_offload: bool = False,
) -> CardReport:
    """Return the longest texts of all known models on a card.

    Args:
        vram: bytes of the card.
        ram: bytes of host memory beside it; None for no limit.
        dtype: the element type; None for ``CARD_DTYPE``.
        weights: their form, if a model can have it.
        wanted: settings that the user set.
        may_offload: packed experts may stay in host memory.
    """
    from lrqk_cli.models import catalog, shapes
    from lrqk_cli.models.families import read_plainly

    dtype, budget = dtype or CARD_DTYPE, Budget(vram, ram or AMPLE)
    # Others must be built for it, which takes seconds each.
    plain = [name for name, shape in shapes.shapes().items() if read_plainly(shape) is not None]
    names = dict.fromkeys((*catalog.catalog(), *plain))
    known = (longest(name, dtype, weights, budget, wanted, may_offload=may_offload) for name in names)
    return CardReport(vram, dtype, tuple(known))


def longest(
    name: str,
    dtype: str,
    weights: WeightChoice,
    budget: Budget,
    wanted: Mapping[str, Any],
    *,
    may_offload: bool = False,
) -> LongestText:
    """Return the longest text of a model that fits.

    Args: see ``of_card``; a ``budget`` without ``vram`` is that of a CPU.
    """
    from lrqk_cli.models.describe import describe

    described = describe(name)
    is_file = any(form.form == "gguf" for form in described.spec.forms)
    # A GGUF file has one packed form, its own.
    chosen_form = "auto" if is_file and weights != "bf16" else weights
    spec = described.with_weights(chosen_form, on_gpu=budget.vram is not None)
    return longest_text(replace(spec, may_offload=may_offload), dtype, budget, wanted)


def _is_cuda(machine: Machine | None, question: FootprintRequest) -> bool:
    if machine is not None:
        return machine.name is not None
    from lrqk_cli.models.devices import choose_device

    return choose_device(question.device).type == "cuda"


def _place(question: FootprintRequest, described: Description) -> tuple[Machine | None, str]:
    """Return the machine, None if only torch can describe it, and the element type to count with."""
    from lrqk_cli.memory.machine import detect_machine

    machine = detect_machine(question.device)
    dtype = question.dtype or (CARD_DTYPE if question.vram else None)
    if dtype is not None and (machine is not None or question.device is None):
        return machine, dtype
    if machine is not None:
        is_half = machine.name is not None and described.dtype == "float16"
        return machine, "float16" if is_half else machine.dtype
    from lrqk_cli.models.devices import resolve_device_dtype

    return None, dtype_name(resolve_device_dtype(question.device, dtype, described.dtype)[1])
