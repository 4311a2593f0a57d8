"""Chooses the next token with transformers' logits processors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.events import TokenLogprobs
from lrqk_cli.engine.failures import not_finite

# Parts of a row of logits that are searched in parallel.
_PARTS = 512
# Logits divided by a lower temperature may be infinite; the likeliest token is all that is left there.
_LEAST_TEMPERATURE = 1e-8


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of the logits ``[vocab]`` and its first index, as scalars on their device.

    torch searches a row of 128K logits with one block of a GPU, which takes as long as a layer's attention.
    """
    parts = logits.view(math.gcd(logits.shape[0], _PARTS), -1)
    values, places = parts.max(1)
    part = values.argmax(keepdim=True)
    return values[part].squeeze(0), (part * parts.shape[1] + places[part]).squeeze(0)


def likeliest(logits: Tensor) -> Tensor:
    """Return the index of the largest of the logits ``[vocab]``, int64 ``[]``; -1 if it is not finite."""
    return _if_finite(*largest(logits))


def _if_finite(top: Tensor, token: Tensor) -> Tensor:
    """Return ``token``, or -1 if the largest logit is not finite; NaN and infinity are the largest.

    One number carries both to the host, because each transfer waits for the device.
    """
    return torch.where(top.abs() < torch.inf, token, -1)


def are_numbers(logits: Tensor | None) -> Tensor:
    """Return whether the largest of the logits ``[vocab]`` is finite, bool ``[]``; true if there are none.

    Then so are all rows before them: a token attends to each, and what is not finite spreads.
    """
    return torch.tensor(True) if logits is None else likeliest(logits) >= 0


def checked(token: int) -> int:
    """Return ``token``.

    Raises:
        ModelError: it is -1, which stands for logits that are not finite.
    """
    if token < 0:
        raise not_finite()
    return token


class Sampler:
    """Greedy or sampled choice by a ``GenerationConfig``; a seed makes it repeatable.

    Attributes:
        takes_likeliest: the choice is always that of ``likeliest``, whatever the earlier tokens.
        logprobs: of the newest choice; None unless an ``ObservedSampler`` notes them.
    """

    logprobs: TokenLogprobs | None = None

    def __init__(self, generation: GenerationConfig, device: torch.device) -> None:
        processors = LogitsProcessorList()
        self._looks_back = generation.repetition_penalty != 1.0
        if self._looks_back:
            processors.append(RepetitionPenaltyLogitsProcessor(generation.repetition_penalty))
        self._greedy = generation.temperature < _LEAST_TEMPERATURE
        if not self._greedy:
            processors.append(TemperatureLogitsWarper(generation.temperature))
            if generation.sample_top_k:
                processors.append(TopKLogitsWarper(generation.sample_top_k))
            if generation.top_p < 1.0:
                processors.append(TopPLogitsWarper(generation.top_p))
        self._processors = processors
        self.takes_likeliest = self._greedy and not processors
        self._generator = torch.Generator(device)
        if generation.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(generation.seed)

    def choose(self, logits: Tensor, tokens: Sequence[int]) -> int:
        """Return the next token after ``tokens``, from its logits ``[vocab]``.

        Raises:
            ModelError: the logits are not finite numbers.
        """
        if self.takes_likeliest:
            return checked(int(likeliest(logits)))
        # Only the repetition penalty reads earlier tokens.
        seen = tokens if self._looks_back else ()
        history = cast(torch.LongTensor, torch.tensor([seen], dtype=torch.int64, device=logits.device))
        scores = self._processors(history, cast(torch.FloatTensor, logits.float().unsqueeze(0)))
        top, token = largest(scores.squeeze(0))
        if not self._greedy:
            # A failed draw makes the GPU unusable for this process, so replace NaN first.
            weights = torch.softmax(scores, dim=-1).nan_to_num(1.0)
            token = torch.multinomial(weights, 1, generator=self._generator).squeeze(0)
        return checked(int(_if_finite(top, token)))


class TokenConstraint(Protocol):
    """Says which tokens an answer may go on with, such as those that a grammar allows."""

    def allowed(self) -> Tensor:
        """Return whether each token may come next, bool ``[n]`` in host memory; further tokens may not."""

    def accept(self, token: int) -> None:
        """Go on behind ``token``, which was chosen."""


class ObservedSampler(Sampler):
    """A sampler with work on the host at every token: it obeys a constraint, or notes log probabilities.

    Args:
        constraint: None allows all tokens.
        top_logprobs: how many of the likeliest tokens to note beside the chosen one; None notes nothing.
    """

    def __init__(
        self,
        generation: GenerationConfig,
        device: torch.device,
        constraint: TokenConstraint | None,
        top_logprobs: int | None,
    ) -> None:
        super().__init__(generation, device)
        self.takes_likeliest = False
        self._constraint = constraint
        self._top_logprobs = top_logprobs

    def choose(self, logits: Tensor, tokens: Sequence[int]) -> int:
        """See ``Sampler``; the log probabilities are those without the constraint."""
        # Also of the tokens that are not allowed: none would do then.
        checked(int(likeliest(logits)))
        if self._constraint is None:
            token = super().choose(logits, tokens)
        else:
            token = super().choose(_only(self._constraint.allowed(), logits), tokens)
            self._constraint.accept(token)
        if self._top_logprobs is not None:
            self.logprobs = _logprobs(logits, token, self._top_logprobs)
        return token


def sampler_for(
    generation: GenerationConfig,
    device: torch.device,
    constraint: TokenConstraint | None,
    top_logprobs: int | None,
) -> Sampler:
    """Return the sampler of an answer; the arguments are those of ``ObservedSampler``."""
    if constraint is None and top_logprobs is None:
        return Sampler(generation, device)
    return ObservedSampler(generation, device, constraint, top_logprobs)


def _only(allowed: Tensor, logits: Tensor) -> Tensor:
    """Return the logits with all tokens but the allowed ones at minus infinity."""
    allowed = functional.pad(allowed, (0, len(logits) - len(allowed)), value=False)
    return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


def _logprobs(logits: Tensor, token: int, count: int) -> TokenLogprobs:
    logs = torch.log_softmax(logits.float(), dim=-1)
    values, tokens = logs.topk(min(count, len(logs)))
    chosen, *best = torch.cat([logs[token : token + 1], values]).tolist()
    return TokenLogprobs(token, chosen, tuple(zip(tokens.tolist(), best, strict=True)))
