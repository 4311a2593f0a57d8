"""The states of layers that read tokens one after the other: of convolutions and recurrences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, LinearAttentionLayer

from lrqk_cli.attention.rewind_points import Copies, StateRewindPoint


class LayerState(LinearAttentionLayer):
    """What one layer keeps of all tokens beside rows: transformers' own tensors, on the model's device.

    They are made when the layer first uses them; a layer without a state never does.
    """

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Make the tensors, of a kind that may also change outside of inference mode."""
        with torch.inference_mode(False):
            super().lazy_initialization(*args, **kwargs)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors in use: ``conv``, ``recurrent`` or both; their addresses never change."""
        parts = {"conv": self.conv_states[0], "recurrent": self.recurrent_states[0]}
        return {name: part for name, part in parts.items() if part is not None}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors that the same layer had in another cache, on the cache's device."""
        self.reset()
        for name, tensor in tensors.items():
            if name not in self.tensors:
                self.lazy_initialization(*((tensor, None) if name == "conv" else (None, tensor)))
            self.tensors[name].copy_(tensor)
        self.has_previous_state[0] = bool(tensors)

    def rewind_point(self, *, on_host: bool = True) -> StateRewindPoint:
        """Return a copy, in host memory or beside the state."""
        return StateRewindPoint(self.has_previous_state[0], Copies(self.tensors.values(), on_host=on_host))

    def rewind(self, point: StateRewindPoint) -> None:
        """Restore the state to a copy of its own."""
        self.reset()
        point.copies.put_back()
        self.has_previous_state[0] = point.in_use


class StatefulCache(Cache):
    """A cache whose layers may have a state, beside the rows of their attention or without any.

    Attributes:
        states: one per decoder layer; empty if no layer of the model has one.
    """

    states: Sequence[LayerState]

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the newest inputs of a convolution; None before the first token. transformers' protocol."""
        state = self.states[layer_idx]
        return state.conv_states[state_idx] if state.has_previous_state[state_idx] else None

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        """Add inputs of a convolution; return them after those before. transformers' protocol."""
        updated: Tensor = self.states[layer_idx].update_conv_state(conv_states, state_idx, **kwargs)
        return updated

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the state of a recurrence; None before the first token. transformers' protocol."""
        state = self.states[layer_idx]
        return state.recurrent_states[state_idx] if state.has_previous_state[state_idx] else None

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        """Replace the state of a recurrence, in place. transformers' protocol."""
        updated: Tensor = self.states[layer_idx].update_recurrent_state(recurrent_states, state_idx, **kwargs)
        return updated

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Return whether a layer's state, by default that of the last one used, has read a token."""
        used = [state for state in self.states if state.tensors]
        state = self.states[layer_idx] if layer_idx is not None else used[-1] if used else None
        if state is None:
            return False
        in_use = state.has_previous_state
        return all(in_use.values()) if state_idx is None else in_use[state_idx]

    def is_recording_past(self, layer_idx: int) -> bool:  # noqa: ARG002
        """Return False: states cannot forget their newest tokens. transformers' protocol."""
        return False

    @contextmanager
    def keeping_states(self) -> Iterator[None]:
        """Restore all states if this context, in which the model reads tokens, is left by an exception.

        Rows do not count until ``position`` has advanced, but states change at once.
        """
        points = [state.rewind_point(on_host=False) for state in self.states]
        try:
            yield
        except BaseException:
            for state, point in zip(self.states, points, strict=True):
                state.rewind(point)
            raise
