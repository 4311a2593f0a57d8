"""The modes that a suite compares: a name, and the settings that it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lrqk_cli.config import LrqkConfig, ModelSpec, paper_settings
from lrqk_cli.memory import accounting


def named_modes(names: Iterable[str], config: LrqkConfig, context: int) -> dict[str, LrqkConfig]:
    """Return the settings of modes by name.

    ``resident`` is ``lrqk`` with every row resident; ``paper-no-hit-miss`` is ``paper`` without a hot set:
    what a step demands travels in every step. ``dense-eager`` has the settings of ``dense``.

    Args:
        config: that of ``lrqk``, under measurement.
        context: tokens of the longest context.
    """
    known = {
        "lrqk": config,
        "resident": everything_resident(config, context),
        "paper": paper_settings(config),
        "paper-no-hit-miss": replace(paper_settings(config), hot_policy="refetch"),
        "dense": replace(config, attention="dense"),
        "dense-eager": replace(config, attention="dense"),
        "offload": replace(config, attention="offload"),
    }
    return {name: known[name] for name in names}


def everything_resident(config: LrqkConfig, context: int) -> LrqkConfig:
    """Return settings under which nothing is approximated: what is left is the noise of another kernel."""
    return replace(config, attention="lrqk", hot_policy="sticky", hot=max(context, config.top_k))


def device_share(spec: ModelSpec, config: LrqkConfig, context: int, dtype: str) -> float:
    """Return the bytes of index and hot rows, of the KV rows of ``context`` tokens; 1 for ``dense``."""
    size = accounting.kv_bytes(spec, config, context, dtype)
    return (size.index + size.hot + size.device_kv) / (size.host_kv + size.device_kv)
