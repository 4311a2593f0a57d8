"""Counts the rows that the layers of a cache demand and fetch, on the host and on the device."""

from __future__ import annotations

from collections.abc import Sequence

from lrqk_cli.attention.device_state import DeviceState
from lrqk_cli.attention.layers import AttentionLayer
from lrqk_cli.telemetry.stats import StepStats


class RowCounters:
    """Adds up the counters of all layers.

    Args:
        layers: plain steps and segments count in them.
        state: device steps count in it; None if there are none.
        row_bytes: bytes of one token's K and V for one KV head.
    """

    def __init__(self, layers: Sequence[AttentionLayer], state: DeviceState | None, row_bytes: int) -> None:
        self._layers = layers
        self._state = state
        self._row_bytes = row_bytes
        self.reset()

    def reset(self) -> None:
        """Forget the misses of the layers."""
        self._wanted = [0] * len(self._layers)
        self._fetched = [0] * len(self._layers)

    def take(self, seconds: float = 0.0, steps: int = 1) -> StepStats:
        """Return the counters since the last call, with the time and steps that they took.

        Waits for the device if it counts.
        """
        taken = [layer.take_stats() for layer in self._layers]
        totals = self._state.take_totals() if self._state is not None else [[0, 0]] * len(taken)
        wanted = [stats.rows_wanted + total[0] for stats, total in zip(taken, totals, strict=True)]
        fetched = [stats.rows_fetched + total[1] for stats, total in zip(taken, totals, strict=True)]
        self._wanted = [before + new for before, new in zip(self._wanted, wanted, strict=True)]
        self._fetched = [before + new for before, new in zip(self._fetched, fetched, strict=True)]
        on_device = sum(total[1] for total in totals)
        return StepStats(
            rows_wanted=sum(wanted),
            rows_fetched=sum(fetched),
            bytes_fetched=on_device * self._row_bytes + sum(stats.bytes_fetched for stats in taken),
            row_sets=sum(stats.row_sets for stats in taken) * steps,
            seconds=seconds,
            steps=steps,
        )

    def layer_misses(self) -> list[float]:
        """Return the miss rate of each layer that has demanded rows."""
        rows = zip(self._wanted, self._fetched, strict=True)
        return [fetched / wanted for wanted, fetched in rows if wanted]
