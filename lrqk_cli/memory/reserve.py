"""Choose the context to reserve if the user does not set it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from lrqk_cli.memory import planner
from lrqk_cli.memory.budget import Budget
from lrqk_cli.memory.plan import Plan
from lrqk_cli.memory.planner import CONTEXT_STEP
from lrqk_cli.model_spec import ModelSpec

# A text that may grow reserves at most 1/2 of the host memory in advance.
_SHARE = 2


def context_of(needed: int) -> int:
    """Return the context to reserve for a text of ``needed`` tokens that does not grow."""
    return -(-needed // CONTEXT_STEP) * CONTEXT_STEP


def reserve(
    spec: ModelSpec,
    dtype: str,
    needed: int,
    budget: Budget,
    wanted: Mapping[str, Any] | None = None,
    *,
    grows: bool,
) -> Plan:
    """Choose context and settings for a text of ``needed`` tokens, answers included.

    The settings suit this text. If it ``grows``, the context then takes the memory that they leave, up to the
    model's limit. With a GPU, the limit is also half of the host memory: what rows take, no other program can
    have.

    Args:
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.
        wanted: fields of ``LrqkConfig`` that the user set; the plan keeps them.
        grows: whether the conversation goes on.

    Raises:
        OutOfMemoryError: nothing fits; the hint names the nearest settings that do.
        UsageError: the wanted fields contradict each other.
    """
    context = min(context_of(needed), spec.max_context)
    chosen = planner.plan(spec, dtype, context, *budget, wanted)
    if not grows:
        return chosen
    kept = {field.name: getattr(chosen.config, field.name) for field in fields(chosen.config)}
    vram, ram = budget
    if vram is not None:
        ram = max(ram // _SHARE, chosen.estimate.beside_device)
    # A longer context is no reason for coarser weights, so their form is fixed here.
    longest = planner.longest_context(chosen.spec, dtype, vram, ram, spec.max_context, kept)
    if longest <= context:
        return chosen
    return replace(planner.plan(chosen.spec, dtype, longest, *budget, kept), why=chosen.why)
