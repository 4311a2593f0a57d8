"""transformers' protocol by which a cache forgets its newest tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakSet

from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.rewind_points import CacheRewindPoint
from lrqk_cli.attention.states import StatefulCache
from lrqk_cli.errors import UsageError


class CroppableCache(StatefulCache):
    """A cache that can be cropped where its layers only append rows; see ``LrqkCache`` for the attributes."""

    position: Position
    lrqk_layers: Sequence[LrqkLayer]
    before_overwrite: Callable[[int], None]
    _rewind_points: WeakSet[CacheRewindPoint]

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
