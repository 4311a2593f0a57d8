"""Which fit of a layer's projector its index is made by, and how another takes its place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.marks import Fit
from lrqk_cli.attention.projection import JointProjector, Projector

# Keys that are still to come lie further out than those before them, as their positions do. With the scale of
# the latter four bits would saturate more often (docs/quality.md).
_ROOM = 1.25


class IndexFit:
    """The standing fit of a projector, which maps the keys of an index.

    Attributes:
        tokens: those that the projector was fitted to, from the first on; 0 before the first fit.
    """

    def __init__(self, projector: Projector, index: LowRankIndex) -> None:
        self._projector = projector
        self._index = index
        self.reset()

    def reset(self) -> None:
        """Forget the fit."""
        self.tokens = 0
        self._fit = Fit()

    def is_outgrown(self, stored: int) -> bool:
        """Tell whether most of ``stored`` tokens are new to the projector, which should be fitted anew."""
        return stored - self.tokens > self.tokens

    def renew(self, stored: int) -> None:
        """Fit to all that was observed of ``stored`` tokens; the index is then empty."""
        self._replace(self._projector.fit, stored)

    def solve_ahead(self, stored: int) -> Callable[[], Callable[[], None]]:
        """Return a task for the CPU: do as ``renew`` does now, but change nothing yet.

        The task returns what puts the fit in force, with room for the keys that have come meanwhile.
        """
        projector = self._projector
        assert isinstance(projector, JointProjector)  # no other is solved for on the CPU
        grams = projector.grams.on_cpu(non_blocking=True)
        device = projector.key_map.device
        arrived = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

        def solve() -> Callable[[], None]:
            if arrived is not None:
                arrived.synchronize()
            fit = projector.solve(grams)
            return lambda: self._replace(lambda: _ROOM * projector.adopt(fit), stored)

        return solve

    def mark(self) -> Fit:
        """Return the fit, which can be taken back to from now on."""
        self._fit.is_marked = True
        return self._fit

    def rewind(self, fit: Fit, tokens: int) -> None:
        """Let a fit be in force again that was made of so many tokens."""
        if fit is not self._fit:
            fit.put_back()
            self._fit = fit
        self.tokens = tokens

    def _replace(self, fit: Callable[[], Tensor], tokens: int) -> None:
        """Replace the fit by one to the first ``tokens``, which returns the deviations of the codes."""
        index = self._index
        self._fit.keep((*self._projector.fitted(), index.scale, index.codes[:, : index.length]))
        self._fit = Fit()
        index.restart(fit())
        self.tokens = tokens
