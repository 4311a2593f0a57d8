"""The plain values that the engine yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lrqk_cli.telemetry.stats import StepStats

FinishReason = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """How much of a prompt the model has read.

    Attributes:
        done, total: tokens of this prompt; within a segment, in proportion to the finished layers.
        seconds: time since this prefill began.
    """

    done: int
    total: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Prefill speed so far; 0 before the first token is done."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time for the remaining tokens at this speed; None before the first token is done."""
        return (self.total - self.done) / self.tokens_per_second if self.tokens_per_second else None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities of one step by the model's own distribution, before temperature and all else.

    Attributes:
        token: the chosen token.
        logprob: the natural logarithm of its probability.
        top: the likeliest tokens with theirs, the best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One new token.

    Attributes:
        token: its id; a stop token is reported too, with ``finish_reason`` ``stop``.
        finish_reason: None while the answer goes on; ``stop`` a stop token, ``length`` the limit of new
            tokens, ``context`` the reserved context is full.
        stats: counters of the decode steps since the last reading. Reading them waits for the device, so most
            items have none; the last item has the rest. The first token belongs to the prefill.
        logprobs: None unless they were asked for.
    """

    token: int
    finish_reason: FinishReason | None
    stats: StepStats
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes in use.

    Attributes:
        device: ``cpu``, ``cuda:0``, …
        device_bytes: allocated on the device now (the process's resident memory on a CPU).
        peak_device_bytes: the most allocated so far.
        weight_bytes: the model's parameters and buffers.
        host_kv_bytes: the KV store in host memory, at the reserved context.
        index_bytes: the low-rank index.
        hot_bytes: resident rows and the recent window.
        budget_bytes: device bytes that the process could use when the engine began; 0 if unknown.
    """

    device: str
    device_bytes: int
    peak_device_bytes: int
    weight_bytes: int
    host_kv_bytes: int
    index_bytes: int
    hot_bytes: int
    budget_bytes: int = 0

    @property
    def on_host(self) -> int:
        """Bytes of the model and its cache in host memory."""
        # On a CPU ``device_bytes`` counts the whole process, so add up the model's own parts.
        own = self.weight_bytes + self.index_bytes + self.hot_bytes if self.device == "cpu" else 0
        return self.host_kv_bytes + own
