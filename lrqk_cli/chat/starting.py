"""Starts the engine of a loaded model, with other settings where memory has gone since they were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory import planner, probe
from lrqk_cli.memory.estimate import CUDA_CONTEXT_BYTES
from lrqk_cli.memory.plan import Plan

if TYPE_CHECKING:
    from lrqk_cli.chat.protocols import OpeningView
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.placement import Placement

# Each attempt takes so much less than the one before, or than what is free, which may be in pieces.
_ATTEMPTS, _SHARE = 4, 0.9


def start_engine(
    loaded: LoadedModel, plan: Plan, placement: Placement, wanted: Mapping[str, Any], view: OpeningView
) -> tuple[Engine, Plan]:
    """Return an engine with the settings of ``plan``, or with those that fit into what is free now.

    Args:
        wanted: fields of ``LrqkConfig`` that the user set, which stay.

    Returns:
        The engine, and the plan of its settings.

    Raises:
        OutOfMemoryError: the rows of the context do not fit.
    """
    chosen = plan
    for attempt in range(_ATTEMPTS):
        try:
            engine = Engine(loaded.model, loaded.spec, chosen.config, chosen.context)
        except OutOfMemoryError:
            smaller = _smaller(chosen, placement, wanted)
            if smaller is None or attempt == _ATTEMPTS - 1:
                raise
            chosen = smaller
            continue
        if chosen is not plan:
            view.note(f"Less memory is free than a moment ago. {chosen.why}")
        return engine, chosen
    raise AssertionError("The last attempt returns or raises.")


def _smaller(plan: Plan, placement: Placement, wanted: Mapping[str, Any]) -> Plan | None:
    """Return a plan for less memory of the device; None if there is none, or if the host's has run out."""
    if plan.budget.vram is None:
        return None
    vram, device = min(plan.budget.vram, plan.estimate.total), placement.device
    if device.type == "cuda":
        now = probe.free_device_bytes(device) + probe.allocated_bytes(device) + CUDA_CONTEXT_BYTES
        vram = min(vram, now)
    # The weights are loaded, so their form and place stay.
    spec = replace(plan.spec, forms=(), may_offload=False)
    found = planner.find(
        spec, placement.dtype_name, plan.context, int(vram * _SHARE), plan.budget.ram, wanted
    )
    return found if found is not None and found.config != plan.config else None
