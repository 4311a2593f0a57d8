"""What may change of an engine while a conversation goes on: settings, sources, the memory that it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from transformers import PreTrainedModel

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.decode import Decoder
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.engine.memory_use import memory_use
from lrqk_cli.engine.prefill import LEAST_SEGMENT
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.accounting import dtype_name, hot_slots
from lrqk_cli.memory.budget import available
from lrqk_cli.memory.planner import HOT_STEP, what_fits
from lrqk_cli.model_spec import ModelSpec

Saving: TypeAlias = Literal["segment", "hot"]


class AdjustableEngine:
    """The settings of an engine in force; see ``Engine`` for the attributes."""

    model: PreTrainedModel
    spec: ModelSpec
    config: LrqkConfig
    context: int
    device: torch.device
    least_hot: int
    cache: LrqkCache
    _decoder: Decoder
    _weight_bytes: int
    _budget_bytes: int

    @property
    def segment(self) -> int:
        """Tokens of a prefill segment."""
        assert self.config.segment is not None  # the engine fills it in
        return self.config.segment

    def reset(self) -> None:
        """Forget the conversation."""
        raise NotImplementedError

    def memory(self) -> MemoryUse:
        """Return the bytes in use now."""
        return memory_use(self.cache, self._weight_bytes, self._budget_bytes)

    def adjust(self, config: LrqkConfig) -> None:
        """Put another ``top_k`` or ``tail`` in force from the next step on.

        Raises:
            UsageError: another setting would change, which needs a new cache; the message names it.
        """
        config = replace(config, segment=self.segment)
        self._decoder.forget_graphs()
        self.cache.adjust(config)
        self.config = config

    def track_sources(self, wanted: bool) -> None:
        """Switch the tracking of attention weights on or off; see ``source_weights``."""
        self._decoder.forget_graphs()
        self.cache.track_sources(wanted)

    def source_weights(self) -> list[float] | None:
        """Return each token's attention weight since the newest prompt; None while tracking is off.

        The weights are those of some layers, summed over heads and steps; see ``attention.sources``.
        """
        return self.cache.source_weights

    def need_less(self) -> Saving | None:
        """Forget the conversation, and need less memory for it from now on.

        Segments are halved first, down to ``LEAST_SEGMENT`` tokens: the text is attended to as exactly as
        before, and rounding and the time of the fit differ. Then the hot set is, down to ``least_hot`` rows.

        Returns:
            The setting that is lower now; None if no less memory would do.
        """
        self.reset()
        if self.segment > LEAST_SEGMENT:
            shorter = max(LEAST_SEGMENT, self.segment // 2)
            self.config = self.cache.config = replace(self.config, segment=shorter)
            return "segment"
        smaller = _smaller_hot_set(self.config, self.context, self.least_hot)
        if smaller is None:
            return None
        self.cache.release_hot_sets(smaller)
        self.config = smaller
        self._decoder.forget_graphs()
        return "hot"

    @property
    def is_pageable(self) -> bool:
        """Whether KV rows are in host memory that no kernel can read, so that steps are slower."""
        return self.cache.is_pageable

    def refusal(self, error: OutOfMemoryError) -> OutOfMemoryError:
        """Return the error to raise where ``need_less`` has found nothing: its hint says what would fit."""
        now = available(self.device, self.memory().on_host)
        hint = what_fits(self.spec, dtype_name(self.model.dtype), self.context, *now)
        return type(error)(error.message, hint)


def _smaller_hot_set(config: LrqkConfig, context: int, least: int) -> LrqkConfig | None:
    """Return the settings with half of the hot rows, as far as that frees memory; None if it does not."""
    if config.attention != "lrqk" or config.hot_policy != "sticky":
        return None
    hot = max(least, hot_slots(config, context) // 2 // HOT_STEP * HOT_STEP)
    smaller = replace(config, hot=hot, top_k=min(config.top_k, hot)) if hot < config.hot else config
    return smaller if hot_slots(smaller, context) < hot_slots(config, context) else None
