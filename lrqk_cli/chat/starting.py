"""Starts the engine of a loaded model, with other settings where memory has gone since they were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import HostMemoryError, OutOfMemoryError, PinningError
from lrqk_cli.memory import planner
from lrqk_cli.memory.accounting import weight_bytes
from lrqk_cli.memory.budget import available
from lrqk_cli.memory.estimate import estimate
from lrqk_cli.memory.plan import Plan
from lrqk_cli.memory.planner import CONTEXT_STEP, LEAST_HOT

if TYPE_CHECKING:
    from lrqk_cli.chat.protocols import OpeningView
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.placement import Placement

# Each attempt takes so much less of the device than the one before, or than what is free, which may be in
# pieces.
_ATTEMPTS, _SHARE = 4, 0.9
_PAGEABLE = (
    "Host memory cannot be pinned, so the GPU cannot read the KV rows there by itself: answers are the same, "
    "and slower. A shorter `context`, or a higher limit on locked memory (ulimit -l), avoids that."
)


def start_engine(
    loaded: LoadedModel,
    plan: Plan,
    placement: Placement,
    wanted: Mapping[str, Any],
    view: OpeningView,
    least_context: int | None = None,
) -> tuple[Engine, Plan]:
    """Return an engine with the settings of ``plan``, or with those that fit into what is free now.

    Where the device's memory has run out, the planner chooses again. Where the host's has, the context
    shrinks; where it can only not be pinned, the rows are then in pageable memory.

    Args:
        wanted: fields of ``LrqkConfig`` that the user set, which stay.
        least_context: tokens to which the context may shrink; None for no fewer than planned.

    Returns:
        The engine, and the plan of its settings.

    Raises:
        OutOfMemoryError: nothing fits; the hint says what would.
    """
    chosen, attempts, may_page = plan, 1, False
    while True:
        try:
            engine = Engine(
                loaded.model,
                loaded.spec,
                chosen.config,
                chosen.context,
                least_hot=_least_hot(chosen, wanted),
                may_page=may_page,
            )
        except HostMemoryError as error:
            shorter = _shorter(chosen, placement, least_context)
            if shorter is None and (may_page or not isinstance(error, PinningError)):
                raise _refusal(error, chosen, placement, wanted) from None
            may_page = shorter is None
            chosen = shorter or chosen
        except OutOfMemoryError as error:
            smaller = _smaller(chosen, placement, wanted) if attempts < _ATTEMPTS else None
            if smaller is None:
                raise _refusal(error, chosen, placement, wanted) from None
            chosen, attempts = smaller, attempts + 1
        else:
            _tell(view, plan, chosen, engine)
            return engine, chosen


def _tell(view: OpeningView, plan: Plan, chosen: Plan, engine: Engine) -> None:
    if chosen.config != plan.config:
        view.note(f"Less memory is free than a moment ago. {chosen.why}")
    if chosen.context < plan.context:
        view.note(f"Less memory is free than a moment ago. The context is now {chosen.context:,} tokens.")
    if engine.is_pageable:
        view.note(_PAGEABLE)


def _least_hot(plan: Plan, wanted: Mapping[str, Any]) -> int:
    """Return the hot rows that the user wants at least."""
    return plan.config.hot if "hot" in wanted else max(LEAST_HOT, wanted.get("top_k") or 1)


def _smaller(plan: Plan, placement: Placement, wanted: Mapping[str, Any]) -> Plan | None:
    """Return a plan for less memory of the device; None if there is none, or if the host's has run out."""
    if plan.budget.vram is None:
        return None
    now = available(placement.device, 0).vram or plan.budget.vram
    vram = min(plan.budget.vram, plan.estimate.total, now)
    # The weights are loaded, so their form and place stay.
    spec = replace(plan.spec, forms=(), may_offload=False)
    found = planner.find(
        spec, placement.dtype_name, plan.context, int(vram * _SHARE), plan.budget.ram, wanted
    )
    return found if found is not None and found.config != plan.config else None


def _shorter(plan: Plan, placement: Placement, least: int | None) -> Plan | None:
    """Return the plan for half of its context, but not below ``least``; None if it cannot be shorter."""
    if least is None or plan.context <= least:
        return None
    context = max(least, plan.context // 2 // CONTEXT_STEP * CONTEXT_STEP)
    needed = estimate(plan.spec, plan.config, context, placement.dtype_name)
    return replace(plan, context=context, estimate=needed)


def _refusal(
    error: OutOfMemoryError, plan: Plan, placement: Placement, wanted: Mapping[str, Any]
) -> OutOfMemoryError:
    """Return the error to raise where nothing fits: its hint says what would, of less than was tried."""
    held = weight_bytes(plan.spec, placement.dtype_name) if placement.device.type == "cpu" else 0
    now = available(placement.device, held)
    hint = planner.what_fits(plan.spec, placement.dtype_name, plan.context - 1, *now, wanted)
    return type(error)(error.message, hint)
