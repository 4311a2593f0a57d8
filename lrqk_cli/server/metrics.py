"""Counters in Prometheus' text form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lrqk_cli.server.answers import usage_of
from lrqk_cli.server.worker import EngineWorker, Finished

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """What a server has done since it began."""

    def __init__(self, worker: EngineWorker) -> None:
        self._registry = registry = CollectorRegistry()
        self._answers = Counter("lrqk_answers", "Answers by their end", ["end"], registry=registry)
        self._tokens = Counter("lrqk_tokens", "Tokens of prompts and answers", ["kind"], registry=registry)
        self._first = Histogram(
            "lrqk_first_token_seconds", "Time to the first token", buckets=_SECONDS, registry=registry
        )
        waiting = Gauge("lrqk_waiting_requests", "Requests that wait", registry=registry)
        waiting.set_function(lambda: len(worker.queue))

    def answered(self, end: Finished) -> None:
        """Count an answer."""
        usage = usage_of(end.answer)
        cached = usage.prompt_tokens_details.cached_tokens
        self._answers.labels("stop" if end.is_stopped else end.answer.finish_reason).inc()
        for kind, count in (
            ("read", usage.prompt_tokens - cached),
            ("cached", cached),
            ("generated", usage.completion_tokens),
        ):
            self._tokens.labels(kind).inc(count)
        if end.answer.timing.ttft_s is not None:
            self._first.observe(end.answer.timing.ttft_s)

    def failed(self) -> None:
        """Count a request that ended in a failure of the engine."""
        self._answers.labels("failure").inc()

    def text(self) -> bytes:
        """Return all counters."""
        return generate_latest(self._registry)
