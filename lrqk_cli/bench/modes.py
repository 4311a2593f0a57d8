"""The modes that a suite compares: their names and settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter

from lrqk_cli.config import LrqkConfig, full_attention, missing_for, paper_settings
from lrqk_cli.memory import accounting
from lrqk_cli.model_spec import ModelSpec


def named_modes(names: Iterable[str], config: LrqkConfig, context: int) -> dict[str, LrqkConfig]:
    """Return the settings of modes by name.

    ``resident`` is ``lrqk`` with every row resident; ``paper-no-hit-miss`` is ``paper`` without a hot set:
    every step fetches all rows that it demands. ``dense-eager`` has the settings of ``dense``.

    Args:
        config: the settings of ``lrqk``.
        context: tokens of the longest context.
    """
    known = {
        "lrqk": config,
        "resident": everything_resident(config, context),
        "paper": paper_settings(config),
        "paper-no-hit-miss": replace(paper_settings(config), hot_policy="refetch"),
        "dense": full_attention(config),
        "dense-eager": full_attention(config),
        "offload": replace(config, attention="offload"),
    }
    return {name: known[name] for name in names}


def acts_in(modes: Iterable[LrqkConfig], base: LrqkConfig, name: str) -> bool:
    """Return whether one of the modes has a setting of ``base``, such as ``als.init``, and reads it."""
    read = attrgetter(name)
    return any(read(config) == read(base) and not missing_for(config, name) for config in modes)


def everything_resident(config: LrqkConfig, context: int) -> LrqkConfig:
    """Return settings without approximation; only the kernels' rounding differs from full attention."""
    return replace(config, attention="lrqk", hot_policy="sticky", hot=max(context, config.top_k))


def device_share(spec: ModelSpec, config: LrqkConfig, context: int, dtype: str) -> float:
    """Return the bytes of index and hot rows as a share of a context's plain KV rows; 1 for ``dense``."""
    size = accounting.kv_bytes(spec, config, context, dtype)
    return (size.index + size.hot + size.device_kv) / (size.full_attention - size.sliding)
