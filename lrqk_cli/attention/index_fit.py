"""Which fit of a layer's projector its index is made by, and how another takes its place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lrqk_cli.attention.factors import GramAccumulator
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.projection import Projector
from lrqk_cli.attention.rewind_points import Fit
from lrqk_cli.attention.rotation import Growth

# A fit serves a text that has grown by so much at most. With Qwen2.5-Coder 0.5B at 32K tokens 18% more text
# did no harm to answers, and 43% multiplied their divergence by ten and more (docs/design.md, section 4).
_MOST_GROWTH = 1 / 8


class IndexFit:
    """The standing fit of a projector, which maps the keys of an index.

    Attributes:
        tokens: those that the fit was made for, whether they had been observed or were foreseen; 0 before
            the first fit. Decode steps are not observed.
    """

    def __init__(self, projector: Projector, index: LowRankIndex) -> None:
        self._projector = projector
        self._index = index
        self.reset()

    def reset(self) -> None:
        """Forget the fit."""
        self.tokens = 0
        self._fit = Fit()
        self._before: GramAccumulator | None = None

    @property
    def observed(self) -> int:
        """Tokens in the sums."""
        return self._projector.grams.count

    def is_outgrown(self, coming: int = 0) -> bool:
        """Tell whether so many tokens are new to the projector that it needs another fit.

        Args:
            coming: tokens that will have been observed by then, beside those that have been.
        """
        return self.observed + coming - self.tokens > _MOST_GROWTH * self.tokens

    def renew(self, indexed: int) -> None:
        """Fit to all that was observed; the index, which had ``indexed`` tokens, is then empty."""
        self._replace(self._projector.fit, self.observed, indexed)

    def begin_segment(self) -> None:
        """Note where the sums stand, so that ``solve_ahead`` can tell what the newest segment has added."""
        self._before = self._projector.grams.on_cpu(non_blocking=True)

    def solve_ahead(self, growth: Growth) -> Callable[[], Callable[[int], None]] | None:
        """Return a task for the CPU: fit to the text as it will be, once what is to come has come.

        What the newest segment added to the sums is what the next ones will add, but for their positions:
        later keys and queries are turned to angles that the sums have not seen, and maps fitted to earlier
        ones miss rows among them (docs/design.md, section 4).

        Args:
            growth: what is to come.

        Returns:
            The task, which changes nothing yet but returns what puts the fit in force, given the number of
            indexed tokens; None where it was not noted when the newest segment began, or that is not as long
            as ``growth`` takes it to be.
        """
        projector, before = self._projector, self._before
        covered = self.observed + growth.tokens
        if before is None or self.observed - before.count != growth.segment:
            return None
        grams = projector.grams.on_cpu(non_blocking=True)
        device = projector.key_map.device
        arrived = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

        def solve() -> Callable[[int], None]:
            if arrived is not None:
                arrived.synchronize()
            fit = projector.solve(grams.moments().grown(before.moments(), growth))
            return lambda indexed: self._replace(fit, covered, indexed)

        return solve

    def rewind_point(self) -> Fit:
        """Return the fit, which can be taken back to from now on."""
        self._fit.is_referenced = True
        return self._fit

    def rewind(self, fit: Fit, tokens: int) -> None:
        """Let a fit be in force again that was made for so many tokens."""
        if fit is not self._fit:
            fit.put_back()
            self._fit = fit
        self.tokens = tokens
        self._before = None

    def _replace(self, fit: Callable[[], Tensor], tokens: int, indexed: int) -> None:
        """Replace the fit by one made for ``tokens``, which returns the deviations of the codes."""
        index = self._index
        self._before = None
        self._fit.keep((*self._projector.fitted(), index.scale, index.codes[:, :indexed]))
        self._fit = Fit()
        index.rescale(fit())
        self.tokens = tokens
