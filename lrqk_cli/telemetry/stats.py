"""Counters of the decode steps: hits, misses, bytes and times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepStats:
    """Counters of one decode step, or of several that are read together.

    Attributes:
        rows_wanted: rows that the steps demanded, summed over layers and row sets (KV heads, or query heads
            with ``--grouping head``): at most ``top_k`` in each. ``offload`` and ``dense`` demand all earlier
            rows of each KV head, but ``dense`` counts none in steps on the device.
        rows_fetched: those of them that came from the host.
        bytes_fetched: bytes that came from the host for these steps.
        row_sets: full-attention layers times KV heads (not query heads, whatever the row sets are), summed
            over the steps: the divisor for figures "per KV head".
        seconds: wall time of the steps.
        steps: the number of steps, one a token; 0 if there is nothing to report.
        drafts_offered: draft tokens of verify steps.
        drafts_accepted: those that stand in the answer, whose steps were saved.
    """

    rows_wanted: int = 0
    rows_fetched: int = 0
    bytes_fetched: int = 0
    row_sets: int = 0
    seconds: float = 0.0
    steps: int = 1
    drafts_offered: int = 0
    drafts_accepted: int = 0


NO_STEPS = StepStats(steps=0)


@dataclass(slots=True)
class DecodeTotals:
    """Sums over decode steps; ``add`` takes further readings."""

    steps: int = 0
    rows_wanted: int = 0
    rows_fetched: int = 0
    bytes_fetched: int = 0
    row_sets: int = 0
    seconds: float = 0.0
    drafts_offered: int = 0
    drafts_accepted: int = 0

    def add(self, stats: StepStats | DecodeTotals) -> None:
        """Add the counters of further steps."""
        self.steps += stats.steps
        self.rows_wanted += stats.rows_wanted
        self.rows_fetched += stats.rows_fetched
        self.bytes_fetched += stats.bytes_fetched
        self.row_sets += stats.row_sets
        self.seconds += stats.seconds
        self.drafts_offered += stats.drafts_offered
        self.drafts_accepted += stats.drafts_accepted

    @property
    def miss_rate(self) -> float:
        """Share of the demanded rows that were not resident; 0 when nothing was demanded."""
        return self.rows_fetched / self.rows_wanted if self.rows_wanted else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the demanded rows that were resident."""
        return 1.0 - self.miss_rate

    @property
    def rows_fetched_per_step(self) -> float:
        """Mean rows fetched per decode step, layer and KV head."""
        return self.rows_fetched / self.row_sets if self.row_sets else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decode speed; 0 before the first step."""
        return self.steps / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Traffic over the link; 0 before the first step."""
        return self.bytes_fetched / self.seconds if self.seconds else 0.0
