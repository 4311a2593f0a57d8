"""Forgetting the newest tokens: to a point that was kept, or by transformers' protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from weakref import WeakSet

from lrqk_cli.attention.layers import AttentionLayer
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.rewind_points import CacheRewindPoint
from lrqk_cli.attention.solving import EarlySolves
from lrqk_cli.attention.states import StatefulCache
from lrqk_cli.errors import UsageError


class RewindableCache(StatefulCache):
    """A cache that can be rewound to a point, and cropped where its layers only append rows.

    See ``LrqkCache`` for the attributes.
    """

    position: Position
    attention_layers: Sequence[AttentionLayer]
    lrqk_layers: Sequence[LrqkLayer]
    before_overwrite: Callable[[int], None]
    is_torn: bool
    _early: EarlySolves
    _rewind_points: WeakSet[CacheRewindPoint]
    _order: Iterator[int]

    def settle(self) -> None:
        """Move accepted drafts into the recent windows."""
        raise NotImplementedError

    def _complete_restoring(self) -> None:
        """Wait for what is restored from files."""
        raise NotImplementedError

    def _clear_scratch(self) -> None:
        """Clear what a step has left that was not completed."""
        raise NotImplementedError

    def _refresh_steps(self) -> None:
        """Let the steps on the device follow what has changed."""
        raise NotImplementedError

    def rewind_point(self) -> CacheRewindPoint:
        """Return a point to rewind to; call this between two segments or steps."""
        self.settle()
        layers = tuple(layer.rewind_point() for layer in self.attention_layers)
        states = tuple(state.rewind_point() for state in self.states)
        point = CacheRewindPoint(next(self._order), self.position.length, layers, states)
        self._rewind_points.add(point)
        return point

    def rewind(self, point: CacheRewindPoint) -> None:
        """Restore the cache to ``point``; rows beyond it are undefined, and later points become invalid.

        A captured graph stays valid, because no tensor moves. Counters of rows are not restored.

        Raises:
            UsageError: the point belongs to another cache, or an earlier rewind or reset made it invalid.
        """
        if point not in self._rewind_points:
            raise UsageError(
                "This point of the conversation is gone: it was taken back beyond it before.",
                "Begin a new conversation.",
            )
        self._complete_restoring()
        self._early.close()
        self.before_overwrite(point.length)
        self._rewind_points -= {other for other in self._rewind_points if other.number > point.number}
        self.is_torn = True
        self.position.set(point.length)
        for layer, layer_point in zip(self.attention_layers, point.layers, strict=True):
            layer.rewind(layer_point, point.length)
        for state, state_point in zip(self.states, point.states, strict=True):
            state.rewind(state_point)
        self._clear_scratch()
        self._refresh_steps()
        self.is_torn = False

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens, exactly, if ``is_croppable``; transformers' protocol.

        Args:
            tokens_to_remove: how many, as a negative number, or 0.

        Raises:
            UsageError: layers change in place, or the cache has fewer tokens.
        """
        self.activate_past_recording()
        length = self.position.length + tokens_to_remove
        if tokens_to_remove > 0 or length < 0:
            raise UsageError(
                f"crop({tokens_to_remove}) was asked of a cache of {self.position.length} tokens.",
                "Pass minus the number of tokens to take back.",
            )
        self.before_overwrite(length)
        self._rewind_points -= {point for point in self._rewind_points if point.length > length}
        self.position.set(length)

    def activate_past_recording(self) -> None:
        """Refuse if ``crop`` would; transformers calls this before it decodes with drafts.

        Raises:
            UsageError: layers change in place.
        """
        if self.is_croppable:
            return
        what = (
            "index and hot set follow them"
            if self.lrqk_layers
            else "a sliding window overwrites its oldest rows"
        )
        raise UsageError(
            f"The cache cannot take back tokens, as prompt lookup and assisted decoding do: {what}.",
            "Generate without them; for a point of your own there are rewind_point() and rewind().",
        )
