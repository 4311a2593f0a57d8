"""The counters of a conversation's decode steps over time."""

from __future__ import annotations

from collections.abc import Iterable

from lrqk_cli.telemetry.stats import DecodeTotals, StepStats

# The most readings to keep, more than a chart has columns. Beyond this, neighbours are merged.
_MOST_READINGS = 256
# Readings that count as "the last steps": about a second of them.
_RECENT_READINGS = 4


class StepHistory:
    """Readings of the counters in step order; old ones are merged, so that memory does not grow.

    Attributes:
        totals: sums over all steps.
    """

    def __init__(self) -> None:
        self.totals = DecodeTotals()
        self._readings: list[DecodeTotals] = []
        self._recent: list[StepStats | DecodeTotals] = []
        # Readings of at least this many steps stay separate.
        self._grain = 1

    def add(self, stats: StepStats | DecodeTotals) -> None:
        """Add a reading; a reading of no steps is ignored."""
        if not stats.steps:
            return
        self.totals.add(stats)
        self._recent = [*self._recent[1 - _RECENT_READINGS :], stats]
        if self._readings and self._readings[-1].steps < self._grain:
            self._readings[-1].add(stats)
        else:
            self._readings.append(_sum([stats]))
        if len(self._readings) > _MOST_READINGS:
            self._readings = [_sum(self._readings[i : i + 2]) for i in range(0, len(self._readings), 2)]
            self._grain *= 2

    @property
    def recent(self) -> DecodeTotals:
        """Sums over the last steps."""
        return _sum(self._recent)

    @property
    def readings(self) -> list[DecodeTotals]:
        """Sums over consecutive spans of steps, oldest first."""
        return list(self._readings)


def _sum(readings: Iterable[StepStats | DecodeTotals]) -> DecodeTotals:
    totals = DecodeTotals()
    for stats in readings:
        totals.add(stats)
    return totals
