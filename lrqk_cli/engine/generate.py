"""The engine: one model, one cache, prefill and decode as iterators of plain values."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.hook import attached
from lrqk_cli.attention.restoring import OpenPart
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.adjusting import AdjustableEngine
from lrqk_cli.engine.decode import Decoder, forward
from lrqk_cli.engine.events import FinishReason, PrefillProgress, Step
from lrqk_cli.engine.failures import compute_errors
from lrqk_cli.engine.fusion import fused
from lrqk_cli.engine.lookup import Lookup
from lrqk_cli.engine.prefill import check_prompt, check_room, default_segment, run_segments
from lrqk_cli.engine.rewind_points import EngineRewindPoint
from lrqk_cli.engine.sampling import Sampler, TokenConstraint, checked, sampler_for
from lrqk_cli.errors import UsageError
from lrqk_cli.kernels import has_triton
from lrqk_cli.memory import probe
from lrqk_cli.memory.exhaustion import memory_errors
from lrqk_cli.memory.planner import LEAST_HOT
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.telemetry.stats import NO_STEPS, DecodeTotals, StepStats

# Reading the counters waits for the device, so they are read only this often.
_SECONDS_BETWEEN_READINGS = 0.2


class Engine(AdjustableEngine):
    """A model with LRQK attention (or a baseline) and the tokens of one conversation.

    Use as a context manager, or call ``close``; either restores the model.

    Args:
        model: a causal language model on one device.
        spec: the model's shape.
        config: settings of the attention.
        context: tokens to reserve.
        least_hot: hot rows below which ``need_less`` does not go.
        may_page: hold rows in pageable memory where host memory cannot be pinned; steps are slower then.

    Attributes:
        config: the settings in force, with the segment length filled in.
        totals: counters of all decode steps so far.
        logits: after the newest token that the model has read, ``[vocab]``; None if they are not known.
        uses_lookup: whether answers may have drafts, if ``config`` gives the cache room for them.

    Raises:
        UnsupportedModelError: the model does not use transformers' attention interface throughout.
        OutOfMemoryError: the KV rows do not fit in memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        spec: ModelSpec,
        config: LrqkConfig,
        context: int,
        *,
        least_hot: int = LEAST_HOT,
        may_page: bool = False,
    ) -> None:
        self.model = model
        self.spec = spec
        self.context = context
        self.device = torch.device(model.device)
        self.least_hot = least_hot
        self.config = config = replace(config, segment=config.segment or default_segment(self.device))
        self.totals = DecodeTotals()
        with ExitStack() as stack, memory_errors():
            stack.enter_context(attached(model))
            vectors = None
            if self.device.type == "cuda" and has_triton():
                vectors = stack.enter_context(fused(model)).vectors
            space = None if vectors is None else vectors.space_for
            self.cache = LrqkCache(spec, config, context, model.dtype, self.device, space, may_page=may_page)
            # Kept from here on; a cache that does not fit raises above, and the block restores the model.
            self._stack = stack.pop_all()
        self._decoder = Decoder(model, self.cache)
        self._tokens: list[int] = []  # one list, which the lookup follows
        self._lookup, self.uses_lookup = Lookup(self._tokens), True
        self.logits: Tensor | None = None
        # Counted once, because a status line reads them often.
        self._weight_bytes = model.get_memory_footprint()
        self._budget_bytes = probe.allocated_bytes(self.device) + probe.free_device_bytes(self.device)
        probe.reset_peak(self.device)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the model."""
        self.cache.cancel_background_work()
        self._stack.close()

    def reset(self) -> None:
        """Forget the conversation; keep the memory and the captured graph for the next one."""
        self._decoder.drop_drafts()
        self.cache.reset()
        self.totals = DecodeTotals()
        self._tokens.clear()
        self._lookup.cut(0)
        self.logits = None

    @property
    def length(self) -> int:
        """The number of tokens of the conversation so far."""
        return len(self._tokens)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the conversation so far."""
        return tuple(self._tokens)

    def rewind_point(self) -> EngineRewindPoint:
        """Return a rewind point of the current state; do not call it within a running iterator."""
        self._decoder.settle()
        logits = None
        if self.logits is not None and not self._waiting():
            logits = self.logits.to("cpu", copy=True)
        return EngineRewindPoint(self.length, self.cache.rewind_point(), logits)

    def rewind(self, point: EngineRewindPoint) -> None:
        """Return to the state at ``point``, exactly; keep the captured graph and ``totals``.

        Raises:
            UsageError: an earlier rewind or a reset has made the point invalid.
            OutOfMemoryError: memory runs out. After this and any other failure the engine is empty.
        """
        with self._computing():
            try:
                self._rewind(point)
            except KeyboardInterrupt:  # some layers are taken back; a rewind can be repeated
                self._rewind(point)
                raise

    def _rewind(self, point: EngineRewindPoint) -> None:
        self._decoder.drop_drafts()
        self.cache.rewind(point.cache)
        del self._tokens[point.length :]
        self._lookup.cut(point.length)
        self.logits = None if point.logits is None else point.logits.to(self.device)

    def restore(self, tokens: Sequence[int], blocks: Sequence[OpenPart], states: Sequence[OpenPart]) -> None:
        """Begin an empty engine with tokens that were read before; see ``LrqkCache.restore``.

        Prefill at least one token after them.
        """
        with self._computing():
            self.cache.allocate_hot_sets()
            self.cache.restore(blocks, states)
            self._tokens[:] = tokens

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        finishes: bool = True,
        on_layer: Callable[[int], None] | None = None,
    ) -> Iterator[PrefillProgress]:
        """Append ``tokens`` to the conversation, exactly.

        May be closed between two items; the tokens read by then stay.

        Args:
            finishes: prepare for decode steps at the end; false if more tokens follow.
            on_layer: called within a segment, on a CPU only, with the tokens done, in proportion to layers.

        Raises:
            ContextLengthError: the tokens do not fit; nothing was appended.
            ModelError: a token is outside the vocabulary, or the model computes values that are not finite.
            OutOfMemoryError: memory runs out. After this and any other failure on the way the engine is
                empty.
        """
        check_prompt(tokens, self.length, self.context, self.spec)
        origin, waiting = self.length, self._waiting()
        start = time.perf_counter()
        with self._computing():
            self.cache.allocate_hot_sets()
            self._decoder.settle()
            stream = torch.tensor([*waiting, *tokens], device=self.device)
            segments = run_segments(
                self.model, self.cache, stream, self.segment, finishes=finishes, on_layer=on_layer
            )
            for done, logits in segments:
                taken = max(0, done - len(waiting))
                self._tokens[origin:] = tokens[:taken]
                self.logits = logits
                yield PrefillProgress(taken, len(tokens), time.perf_counter() - start)

    def generate(
        self,
        generation: GenerationConfig,
        stop_ids: Collection[int],
        constraint: TokenConstraint | None = None,
        top_logprobs: int | None = None,
    ) -> Iterator[Step]:
        """Continue the conversation token by token.

        May be closed between two items. Yielded tokens belong to the conversation, except stop tokens.

        Args:
            constraint: allows some tokens only; to end the answer, a stop token. None allows all.
            top_logprobs: how many likeliest tokens a step tells with their log probabilities, beside that of
                its own; None for no log probabilities.

        Raises:
            ContextLengthError: the context is full.
            ModelError: the model computes values that are not finite; the engine is then empty.
            OutOfMemoryError: memory runs out; the engine is then empty.
        """
        check_room(self.length, self.context)
        limit = generation.max_new_tokens or self.context
        steps, seconds = 0, 0.0
        drafts = self._lookup if self.uses_lookup and self.cache.draft_tokens else None
        with self._computing():
            sampler = sampler_for(generation, self.device, constraint, top_logprobs)
            self.cache.counters.take()
            is_step, start = bool(self._waiting()), time.perf_counter()
            logits = self._next_logits()
            for count in range(1, limit + 1):
                token = self._choose(sampler, logits)
                if is_step:
                    steps, seconds = steps + 1, seconds + time.perf_counter() - start
                finish = self._keep(token, stop_ids, is_last=count == limit)
                stats = NO_STEPS
                if steps and (finish is not None or seconds >= _SECONDS_BETWEEN_READINGS):
                    stats = self._count_steps(steps, seconds)
                    steps, seconds = 0, 0.0
                if finish is not None:
                    yield Step(token, finish, stats, sampler.logprobs)
                    return
                # A captured step is launched first, and runs while the caller shows the token. The token
                # belongs to the conversation whatever the caller does next, so nothing has to be undone.
                is_captured = self._decoder.is_captured
                if not is_captured:
                    yield Step(token, None, stats, sampler.logprobs)
                waiting, start = self._waiting(), time.perf_counter()
                is_step = bool(waiting)
                if waiting == [token]:
                    logits = self.logits = self._decoder.step(token, drafts)
                else:  # the caller has used the engine since
                    logits = self._next_logits()
                if is_captured:
                    yield Step(token, None, stats, sampler.logprobs)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Reset the engine after what leaves layers apart: a failure, or an interrupt within a step.

        An interrupted segment is read again from its beginning.
        """
        try:
            with compute_errors():
                yield
        except BaseException as error:
            if isinstance(error, Exception) or self.cache.is_torn:
                self.reset()
            raise
        finally:
            self._decoder.settle()

    def _choose(self, sampler: Sampler, logits: Tensor) -> int:
        likeliest = self._decoder.likeliest(logits) if sampler.takes_likeliest else None
        return sampler.choose(logits, self._tokens) if likeliest is None else checked(likeliest)

    def _keep(self, token: int, stop_ids: Collection[int], *, is_last: bool) -> FinishReason | None:
        """Append a generated token unless it is a stop token; return the reason if it ends the answer."""
        if token in stop_ids:
            return "stop"
        self.append(token)
        if is_last:
            return "length"
        return "context" if self.length == self.context else None

    def next_logits(self) -> Tensor:
        """Return the logits ``[vocab]`` of the next token, after feeding the model all waiting tokens.

        Raises:
            UsageError: there is no prompt to continue.
            ModelError, OutOfMemoryError: see ``generate``.
        """
        with self._computing():
            return self._next_logits()

    def _next_logits(self) -> Tensor:
        waiting = self._waiting()
        if len(waiting) == 1:
            self.logits = self._decoder.step(waiting[0])
        elif waiting:
            self._decoder.settle()
            self.logits = forward(self.model, self.cache, torch.tensor(waiting, device=self.device))
        if self.logits is None:
            raise UsageError("There is no prompt to continue.", "Prefill some tokens first.")
        return self.logits

    def append(self, token: int) -> None:
        """Append ``token`` to the conversation; the model reads it in the next step."""
        self._tokens.append(token)

    def layer_misses(self) -> list[float]:
        """Return the miss rate of each layer that has demanded rows."""
        return self.cache.counters.layer_misses()

    def _waiting(self) -> list[int]:
        """Return the tokens that the model has not read yet."""
        return self._tokens[self.cache.position.length :]

    def _count_steps(self, steps: int, seconds: float) -> StepStats:
        offered, accepted = self._decoder.take_drafts()
        stats = replace(
            self.cache.counters.take(seconds, steps), drafts_offered=offered, drafts_accepted=accepted
        )
        self.totals.add(stats)
        return stats
