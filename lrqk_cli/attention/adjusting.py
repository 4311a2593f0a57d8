"""What may change of a cache while a conversation goes on."""

from __future__ import annotations

from dataclasses import fields

import torch

from lrqk_cli.attention.decode_step import DeviceStep
from lrqk_cli.attention.device_state import DeviceState
from lrqk_cli.attention.sources import AttentionTracker
from lrqk_cli.attention.taking_back import RewindableCache
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import UsageError
from lrqk_cli.model_spec import ModelSpec


class AdjustableCache(RewindableCache):
    """A cache of which some settings may change, and whose hot sets may shrink.

    See ``LrqkCache`` for the attributes.
    """

    spec: ModelSpec
    config: LrqkConfig
    context: int
    device: torch.device
    _state: DeviceState | None
    _steps: dict[int, DeviceStep]
    _tracker: AttentionTracker | None

    @property
    def has_device_steps(self) -> bool:
        """Whether decode steps keep their lengths on the device, so that a graph may be captured."""
        return bool(self._steps)

    def adjust(self, config: LrqkConfig) -> None:
        """Change ``top_k`` or ``tail`` from the next step on. Captured graphs become invalid.

        Raises:
            UsageError: another setting differs, which needs a new cache; the message names it.
        """
        refuse_changes(self.config, config)
        self._early.close()
        self.settle()
        if self.config.attention != "lrqk":
            return
        before = self.config
        try:
            self._put_in_force(config)
        except BaseException:  # an interrupt too: layers and steps must agree
            self._put_in_force(before)
            raise

    def _put_in_force(self, config: LrqkConfig) -> None:
        self._forget_steps()
        self.config = config
        for layer in self.lrqk_layers:
            layer.adjust(config)
        self._make_steps()

    def track_sources(self, wanted: bool) -> None:
        """Start or stop summing attention weights at the next prompt. Captured graphs become invalid."""
        self.settle()
        self._forget_steps()
        self._track(None)
        if wanted:
            self._track(AttentionTracker(self.spec, self.context, self.device))
        self._make_steps()

    def _track(self, tracker: AttentionTracker | None) -> None:
        self._tracker = tracker
        for number, layer in enumerate(self.attention_layers):
            layer.token_attention = None if tracker is None else tracker.weights.get(number)

    @property
    def source_weights(self) -> list[float] | None:
        """The weight of each token since the newest prompt, see ``AttentionTracker``; None if not tracked."""
        return None if self._tracker is None else self._tracker.read(self.position.length)

    def release_hot_sets(self, config: LrqkConfig) -> None:
        """Free the hot sets of an empty cache, for smaller ones of ``config``, without taking any memory.

        Captured graphs become invalid. Call ``allocate_hot_sets`` before the first token.
        """
        self._forget_steps()
        self.config = config
        for layer in self.lrqk_layers:
            layer.release_hot_set(config)

    def allocate_hot_sets(self) -> None:
        """Take memory for hot sets that were released, and for steps if there was none for them before."""
        for layer in self.lrqk_layers:
            if layer.hot.is_released:
                layer.hot.allocate(self.config)
        if not self._steps:
            self._make_steps()

    def _forget_steps(self) -> None:
        """Free what device steps have; until others are made, steps are plain ones."""
        self._steps = {}
        if self._state is not None:
            self._state.forget_scratch()

    def _make_steps(self) -> None:
        if self._state is None or any(layer.hot.is_released for layer in self.lrqk_layers):
            return
        self._steps = {
            number: layer.make_step(self._state, number)
            for number, layer in enumerate(self.attention_layers)
            if layer.attends
        }
        self._refresh_steps()

    def _clear_scratch(self) -> None:
        if self._state is not None:
            self._state.clear_scratch()

    def _refresh_steps(self) -> None:
        for step in self._steps.values():
            step.refresh()


def refuse_changes(before: LrqkConfig, after: LrqkConfig) -> None:
    """Raise if more than ``tail`` and, with a sticky hot set, ``top_k`` differs.

    Raises:
        UsageError: another setting differs, which needs a new cache; the message names it.
    """
    free = {"tail"} if before.hot_policy != "sticky" else {"tail", "top_k"}
    for field in fields(LrqkConfig):
        name = field.name
        if name not in free and getattr(after, name) != getattr(before, name):
            raise UsageError(
                f"`{name}` cannot change while the conversation goes on: the cache was made for it.",
                f"Start again with another `{name}`.",
            )
