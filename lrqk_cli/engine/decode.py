"""A model's forward pass, and its decode steps: eager, or captured once in a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.engine.sampling import likeliest
from lrqk_cli.memory.managed import freeing_later
from lrqk_cli.memory.tensors import empty_staging
from lrqk_cli.upstream import cache_argument


class FixedStep:
    """A step of a fixed number of tokens: the newest token, and drafts after it in a verify step.

    If the cache keeps its lengths on the device, the first step runs eagerly and compiles the kernels, the
    second is captured in a CUDA graph, and all further steps replay the graph: one launch instead of about a
    thousand. When the text outgrows the hot set, the step is captured anew: steps that choose rows have other
    kernels than steps that find all of them resident. Where a text may come to that, the first step is of the
    one kind, the second of the other, and the third is captured. A model that reads a value back
    in every step, as RoPE that depends on the length does, cannot be captured and stays eager. While a layer
    is observed, steps are eager too.

    A captured step also chooses the likeliest token after each of its tokens, and sends these to the host. A
    step of one token feeds its choice to itself.

    Args:
        count: tokens of a step.

    Attributes:
        other: another step, never in flight at the same time, whose graph's memory this one may use.
    """

    def __init__(
        self, model: PreTrainedModel, cache: LrqkCache, count: int, other: FixedStep | None = None
    ) -> None:
        self._model = model
        self._cache = cache
        self.other = other
        self._tokens = torch.zeros(count, dtype=torch.int64, device=cache.device)
        self._ahead = torch.arange(count, device=cache.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self._likeliest = empty_staging(self._ahead, cache.device)
        # The token that the newest replay chose and wrote to ``_tokens``; None until the host has read it.
        self._chosen: int | None = None
        self._can_capture = True
        # Whether the captured step chooses rows.
        self._is_choosing = False
        # Which of both kinds of steps have run, so that their kernels are compiled.
        self._kinds = set[bool]()

    @property
    def is_captured(self) -> bool:
        """Whether a step is a single launch that returns before the step has run."""
        return self._graph is not None

    @property
    def is_cold(self) -> bool:
        """Whether the next step compiles kernels, or is captured."""
        return self._can_capture and self._graph is None

    def run(self, tokens: Sequence[int]) -> Tensor:
        """Append the first of ``tokens``; return the logits ``[count, vocab]`` after each of them.

        The logits are valid until the next step of any kind.
        """
        if [self._chosen] != tokens:
            self._tokens.copy_(torch.tensor(tokens), non_blocking=True)
        self._chosen = None
        cache = self._cache
        may_replay = cache.has_device_steps and not cache.observers
        if may_replay:
            cache.prepare_step()
            cache.solve_soon()
            if self._is_choosing != cache.is_choosing:
                self._graph = self._logits = None
            if self._graph is None and self._can_capture and cache.is_choosing in self._kinds:
                self._capture()
            if self._graph is not None and self._logits is not None:
                self._graph.replay()
                cache.position.advance_host(1)
                return self._logits
        # The text may outgrow the hot set in the middle of an answer, too late to compile a step's kernels.
        is_first = may_replay and not self._kinds
        may_choose = not cache.holds_all(cache.context)
        warming_up = cache.warming_up() if is_first and may_choose else nullcontext()
        with cache.keeping_states(), warming_up:
            logits = newest_logits(self._model, cache, self._tokens, self._ahead)
        if may_replay:
            self._kinds.add(cache.is_choosing)
        return logits

    def forget_graph(self) -> None:
        """Forget the captured step; later steps begin as the first ones did."""
        self._graph = self._logits = self._chosen = None
        self._can_capture = True
        self._kinds.clear()

    def chosen(self, logits: Tensor) -> list[int] | None:
        """Return the likeliest token after each token, -1 for logits that are not finite.

        Waits for the device. None if ``logits`` are not those of a replayed step.
        """
        if logits is not self._logits:
            return None
        torch.cuda.current_stream(logits.device).synchronize()
        chosen: list[int] = self._likeliest.tolist()
        if len(chosen) == 1:
            self._chosen = chosen[0]
        return chosen

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        position = self._cache.position
        length, pending = position.length, position.pending
        shared = self.other and self.other._graph
        try:
            # Another thread may copy rows to the disk meanwhile; only this thread's calls are captured.
            with (
                freeing_later(),
                torch.cuda.device(self._tokens.device),
                torch.cuda.graph(
                    graph, pool=shared.pool() if shared else None, capture_error_mode="thread_local"
                ),
            ):
                logits = newest_logits(self._model, self._cache, self._tokens, self._ahead)
                chosen = torch.stack([likeliest(row) for row in logits])
                if len(chosen) == 1:
                    self._tokens.copy_(chosen)
                self._likeliest.copy_(chosen, non_blocking=True)
            self._graph, self._logits = graph, logits
            self._is_choosing = self._cache.is_choosing
        except RuntimeError:
            self._can_capture = False
        finally:
            # Capturing runs no kernel, so undo what the host has counted.
            position.length, position.pending = length, pending


class DraftSource(Protocol):
    """Finds drafts for a conversation, whose newest token is the one that a step is for."""

    def find(self, count: int) -> Sequence[int]:
        """Return ``count`` drafts that may follow, or none. Called for every step, in order."""

    def prepare(self) -> None:
        """Work ahead for the next ``find``, while the device computes a step."""


class Decoder:
    """Feeds tokens to a model one by one, and drafts with them.

    A verify step computes the logits after a token and after each of its drafts. As long as the following
    tokens are the drafts, ``step`` accepts them and returns the logits that it has kept. Any other token
    drops the rest; what the rest has written in the cache is never read.

    Between two captured greedy steps the device waits for the host, which only reads the likeliest token and
    replays the graph.
    """

    def __init__(self, model: PreTrainedModel, cache: LrqkCache) -> None:
        self._model = model
        self._cache = cache
        self._plain = FixedStep(model, cache, 1)
        self._verify: FixedStep | None = None
        self._step = self._plain
        # The logits of the newest step, after each of its tokens, and its likeliest tokens if they are read.
        self._kept: Tensor | None = None
        self._chosen: list[int] | None = None
        # The logits that were returned last, and their row.
        self._newest: Tensor | None = None
        self._row = 0
        self._drafts: Sequence[int] = ()
        self._offered = self._accepted = 0
        self._warms_up = False

    @property
    def is_captured(self) -> bool:
        """Whether a step is a single launch that returns before the step has run."""
        return self._plain.is_captured

    def step(self, token: int, source: DraftSource | None = None) -> Tensor:
        """Append ``token`` to the sequence and return the logits ``[vocab]`` after it.

        The logits are valid until the next step.

        Args:
            source: of drafts after the token, if it is no draft itself; None for a plain step.
        """
        if self._drafts and self._drafts[0] == token:
            self._drafts = self._drafts[1:]
            self._cache.accept_draft()
            self._accepted += not self._warms_up
            self._row += 1
        else:
            self._drafts = self._found(source, token)
            if self._drafts and self._verify is None:
                self._verify = FixedStep(self._model, self._cache, 1 + len(self._drafts), self._plain)
                self._plain.other = self._verify
            self._step = self._verify if self._drafts and self._verify else self._plain
            self._kept = self._step.run([token, *self._drafts])
            self._chosen, self._row = None, 0
            self._offered += 0 if self._warms_up else len(self._drafts)
            if source is not None and self.is_captured:
                source.prepare()
        assert self._kept is not None
        self._newest = self._kept[self._row]
        return self._newest

    def _found(self, source: DraftSource | None, token: int) -> Sequence[int]:
        count = self._cache.draft_tokens
        if source is None or not count:
            return ()
        self._warms_up = self._cache.has_device_steps and (self._verify is None or self._verify.is_cold)
        # Any drafts will do to make verify steps ready now, and not in the middle of an answer.
        return [token] * count if self._warms_up else source.find(count)

    def forget_graphs(self) -> None:
        """Forget captured steps, whose tensors have changed, without taking any memory."""
        self.drop_drafts()
        self._plain.forget_graph()
        self._step, self._verify, self._plain.other = self._plain, None, None
        self._kept = self._chosen = self._newest = None

    def drop_drafts(self) -> None:
        """Forget the drafts that were not reached."""
        self._drafts = ()

    def settle(self) -> None:
        """Forget the drafts that were not reached, and settle the cache; call this before its other uses."""
        self.drop_drafts()
        self._cache.settle()

    def take_drafts(self) -> tuple[int, int]:
        """Return the drafts that steps had, and those accepted, since the last call."""
        taken, self._offered, self._accepted = (self._offered, self._accepted), 0, 0
        return taken

    def likeliest(self, logits: Tensor) -> int | None:
        """Return the likeliest token of ``logits``, or -1, as ``sampling.likeliest`` does.

        Waits for the device once a step. None if ``logits`` are not the newest, or not of a replayed step.
        """
        if logits is not self._newest or self._kept is None:
            return None
        if self._chosen is None:
            self._chosen = self._step.chosen(self._kept)
        return None if self._chosen is None else self._chosen[self._row]


def forward(model: PreTrainedModel, cache: LrqkCache, tokens: Tensor) -> Tensor:
    """Run a segment ``[n]`` through the model; return the logits ``[vocab]`` after its newest token."""
    with cache.keeping_states():
        return newest_logits(model, cache, tokens)[-1]


@torch.inference_mode()
def newest_logits(
    model: PreTrainedModel, cache: LrqkCache, tokens: Tensor, ahead: Tensor | None = None
) -> Tensor:
    """Run ``tokens`` ``[n]`` through the model; return the logits after the newest, or after each.

    Args:
        ahead: for a step, the numbers from 0 to n - 1 on the device: how far each token is ahead of
            ``cache.position``. None for a segment.

    Returns:
        ``[n, vocab]`` of a step, ``[1, vocab]`` of a segment.
    """
    positions = None
    if ahead is not None and cache.has_device_steps:
        # On the device, so that a replay reads them; the host knows those of plain steps.
        positions = (cache.position.tensor + ahead).unsqueeze(0)
    with nullcontext() if ahead is None or len(tokens) == 1 else cache.verifying():
        output = model(
            input_ids=tokens.unsqueeze(0),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1 if ahead is None else len(tokens),
            **{cache_argument(): cache},
        )
    logits: Tensor = output.logits[0]
    return logits
