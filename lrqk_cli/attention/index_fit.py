"""The current fit of a layer's projector, which determines its index, and how a new fit replaces it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lrqk_cli.attention.factors import GramAccumulator
from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.projection import Projector
from lrqk_cli.attention.rewind_points import Fit
from lrqk_cli.attention.rotation import Growth
from lrqk_cli.memory.tensors import arrival

# A fit serves a text that has grown by at most this share. With Qwen2.5-Coder 0.5B at 32K tokens, 18% more
# text did not harm answers, and 43% multiplied their divergence by ten and more (docs/design.md, section 4).
_MOST_GROWTH = 1 / 8


class IndexFit:
    """The current fit of a projector, which maps the keys of an index.

    Attributes:
        tokens: the number of tokens that the fit covers, observed or expected; 0 before the first fit.
            Tokens of decode steps do not count.
        before_replace: called before the maps and the codes of the index are replaced; by any thread.
    """

    def __init__(self, projector: Projector, index: LowRankIndex) -> None:
        self.before_replace: Callable[[], None] = lambda: None
        self._projector = projector
        self._index = index
        self.reset()

    def reset(self) -> None:
        """Forget the fit."""
        self.tokens = 0
        self._fit = Fit()
        self._before: GramAccumulator | None = None

    @property
    def current(self) -> Fit:
        """The current fit, to be compared by identity."""
        return self._fit

    @property
    def observed(self) -> int:
        """Tokens in the Gram sums."""
        return self._projector.grams.count

    def is_outgrown(self, coming: int = 0) -> bool:
        """Return whether the text has grown so much since the fit that it needs another one.

        Args:
            coming: further tokens, not observed yet, that the text will have.
        """
        return self.observed + coming - self.tokens > _MOST_GROWTH * self.tokens

    def renew(self, indexed: int) -> None:
        """Fit to all observed tokens; this empties the index, which had ``indexed`` tokens."""
        self.install(self._projector.fit, self.observed, indexed)

    def install(self, fit: Callable[[], Tensor], tokens: int, indexed: int) -> None:
        """Replace the fit by one that covers ``tokens``; this empties the index, which had ``indexed``.

        Args:
            fit: puts the maps in force, and returns the deviations of the codes, see ``SolvedMaps``.
        """
        self.before_replace()
        index = self._index
        self._before = None
        if self.tokens:  # else nothing was made with the maps, and a copy would wait for the device
            self._fit.keep((*self._projector.fitted(), index.scale, index.codes[:, :indexed]))
        self._fit = Fit()
        index.rescale(fit())
        self.tokens = tokens

    def begin_segment(self) -> None:
        """Copy the sums, so that ``solve_ahead`` can compute what the newest segment adds."""
        self._before = self._projector.grams.on_cpu(non_blocking=True)

    def solve_ahead(self, growth: Growth) -> Callable[[], Callable[[int], None]] | None:
        """Return a task for the CPU: solve for the maps of the whole text, with the expected coming tokens.

        A coming segment is expected to add to the sums what the newest one added, turned by RoPE to later
        positions. Maps fitted without these angles choose worse rows (docs/design.md, section 4).

        Args:
            growth: the coming tokens.

        Returns:
            The task. It changes nothing, and returns a function that installs the fit, given the number of
            indexed tokens. None if ``begin_segment`` was not called before the newest segment, or if that
            segment is not as long as ``growth`` assumes.
        """
        projector, before = self._projector, self._before
        covered = self.observed + growth.tokens
        if before is None or self.observed - before.count != growth.segment:
            return None
        grams = projector.grams.on_cpu(non_blocking=True)
        await_copies = arrival(projector.key_map.device)

        def solve() -> Callable[[int], None]:
            await_copies()
            solved = projector.solve(grams.moments().grown(before.moments(), growth))
            return lambda indexed: self.install(solved.install, covered, indexed)

        return solve

    def rewind_point(self) -> Fit:
        """Return the current fit, to which ``rewind`` can return from now on."""
        self._fit.is_referenced = True
        return self._fit

    def rewind(self, fit: Fit, tokens: int) -> None:
        """Restore a fit that covers ``tokens`` tokens."""
        if fit is not self._fit:
            fit.put_back()
            self._fit = fit
        self.tokens = tokens
        self._before = None
