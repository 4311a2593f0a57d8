"""How much context to reserve where the user does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from lrqk_cli.config import ModelSpec
from lrqk_cli.memory import planner
from lrqk_cli.memory.budget import Budget
from lrqk_cli.memory.planner import CONTEXT_STEP, Plan

# The share of the host memory that may be set aside for a text that is not there yet.
_SHARE = 2


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

    The settings are those that suit this text. Where it ``grows``, the context then takes what memory they
    leave, up to the model's limit and to half of the host memory of a machine with a GPU, which is pinned.

    Args:
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.
        wanted: fields of ``LrqkConfig`` that were asked for; they stay as they are.
        grows: more of the conversation follows.

    Raises:
        OutOfMemoryError: nothing fits; the hint names the nearest that does.
        UsageError: what was asked for contradicts itself.
    """
    context = min(-(-needed // CONTEXT_STEP) * CONTEXT_STEP, spec.max_context)
    chosen = planner.plan(spec, dtype, context, *budget, wanted)
    if not grows:
        return chosen
    kept = {field.name: getattr(chosen.config, field.name) for field in fields(chosen.config)}
    vram, ram = budget
    if vram is not None:
        ram = max(ram // _SHARE, chosen.estimate.host_kv)
    # More room is no reason for coarser weights.
    longest = planner.longest_context(chosen.spec, dtype, vram, ram, spec.max_context, kept)
    if longest <= context:
        return chosen
    return replace(planner.plan(chosen.spec, dtype, longest, *budget, kept), why=chosen.why)
