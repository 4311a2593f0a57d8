"""Time a prefill and an answer, of the engine or of unmodified transformers."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from transformers import DynamicCache, PreTrainedModel

from lrqk_cli.bench.speed.results import Run
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.prefill import default_segment
from lrqk_cli.memory import probe
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.telemetry.stats import DecodeTotals
from lrqk_cli.upstream import cache_argument

EAGER = "dense-eager"


class Runner(Protocol):
    """Runs prefill and decode, and times them.

    Attributes:
        segment: tokens of a prefill segment.
    """

    segment: int

    def run(self, prompt: Sequence[int], new_tokens: int) -> Run:
        """Prefill ``prompt`` into an empty cache, and take ``new_tokens`` greedy decode steps.

        Raises:
            OutOfMemoryError, torch.OutOfMemoryError: it does not fit.
        """

    def memory(self) -> MemoryUse:
        """Return the bytes in use, and the peak since the runner was made."""

    @property
    def note(self) -> str | None:
        """How a run departed from its mode's definition; None if it did not."""


@contextmanager
def open_runner(
    mode: str, model: PreTrainedModel, spec: ModelSpec, config: LrqkConfig, context: int
) -> Iterator[Runner]:
    """Yield the runner of a mode, for prompt and answer of ``context`` tokens together.

    Raises:
        OutOfMemoryError, torch.OutOfMemoryError: it does not fit.
    """
    if mode == EAGER:
        yield EagerRunner(model)
        return
    with Engine(model, spec, config, context) as engine:
        # Random weights fall into loops, and made-up sentences are alike: drafts would gain too much.
        engine.uses_lookup = False
        yield EngineRunner(engine)


class EngineRunner:
    """Runs the engine. All runs share its memory and its CUDA graph, so the first run is the warm-up."""

    note: str | None = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.segment = engine.config.segment or default_segment(engine.device)

    def run(self, prompt: Sequence[int], new_tokens: int) -> Run:
        """See ``Runner``."""
        engine = self._engine
        engine.reset()
        watch, tokens, totals = _Stopwatch(engine.device), list[int](), DecodeTotals()
        for _ in engine.prefill(prompt):
            pass
        watch.prefilled()
        for step in engine.generate(GenerationConfig(max_new_tokens=1 + new_tokens), stop_ids=()):
            watch.lap()
            tokens.append(step.token)
            if len(tokens) > 1:
                totals.add(step.stats)
        return watch.run(tokens, totals)

    def memory(self) -> MemoryUse:
        """See ``Runner``."""
        return self._engine.memory()


class EagerRunner:
    """Runs the model with transformers' attention and cache, token by token.

    The prompt is one call if that fits in memory, else one call per segment.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._device = torch.device(model.device)
        self._whole = True
        self.segment = default_segment(self._device)
        probe.reset_peak(self._device)

    @property
    def note(self) -> str | None:
        """See ``Runner``."""
        return None if self._whole else f"prefill in segments of {self.segment:,} tokens"

    def run(self, prompt: Sequence[int], new_tokens: int) -> Run:
        """See ``Runner``."""
        if self._whole:
            try:
                return self._run(prompt, new_tokens, len(prompt))
            except torch.OutOfMemoryError:
                if len(prompt) <= self.segment:
                    raise
            self._whole = False
            release(self._device)
            probe.reset_peak(self._device)  # which the failed attempt has raised
        return self._run(prompt, new_tokens, self.segment)

    def memory(self) -> MemoryUse:
        """See ``Runner``."""
        return MemoryUse(
            device=str(self._device),
            device_bytes=probe.allocated_bytes(self._device),
            peak_device_bytes=probe.peak_bytes(self._device),
            weight_bytes=self._model.get_memory_footprint(),
            host_kv_bytes=0,
            index_bytes=0,
            hot_bytes=0,
        )

    @torch.inference_mode()
    def _run(self, prompt: Sequence[int], new_tokens: int, segment: int) -> Run:
        watch, tokens = _Stopwatch(self._device), list[int]()
        cache = DynamicCache(config=self._model.config)
        for part in torch.tensor([prompt], device=self._device).split(segment, dim=1):
            logits = self._logits(part, cache)
        watch.prefilled()
        while True:
            token = logits.argmax()
            tokens.append(int(token))
            watch.lap()
            if len(tokens) > new_tokens:
                return watch.run(tokens, DecodeTotals())
            logits = self._logits(token.view(1, 1), cache)

    def _logits(self, tokens: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        named = {cache_argument(): cache}
        output = self._model(input_ids=tokens, use_cache=True, logits_to_keep=1, **named)
        logits: torch.Tensor = output.logits[0, -1]
        return logits


class _Stopwatch:
    """Measures the seconds of a run; waits for the device before and after the prefill.

    Decode steps are timed from token to token: reading a token waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._prefill = 0.0
        self._laps: list[float] = []
        probe.synchronise(device)
        self._began = self._last = time.perf_counter()

    def prefilled(self) -> None:
        """Record that the cache is ready for decode."""
        probe.synchronise(self._device)
        self._prefill = time.perf_counter() - self._began

    def lap(self) -> None:
        """Record that one more token is known."""
        now = time.perf_counter()
        self._laps.append(now - self._last)
        self._last = now

    def run(self, tokens: Sequence[int], totals: DecodeTotals) -> Run:
        """Return the run with the recorded times."""
        return Run(tuple(tokens), self._prefill, self._laps[0], tuple(self._laps[1:]), totals)


def release(device: torch.device) -> None:
    """Free the memory of the last run, so that it does not count for the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
