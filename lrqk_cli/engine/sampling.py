"""Choosing the next token, by transformers' logits processors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.failures import not_finite

# Parts of a row of logits whose largest are sought side by side.
_PARTS = 512


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first of the largest logits ``[vocab]`` and its place, as scalars on their device.

    torch seeks it in a row of 128K by a single block of a GPU, which takes as long as a layer's attention.
    """
    parts = logits.view(math.gcd(logits.shape[0], _PARTS), -1)
    values, places = parts.max(1)
    part = values.argmax(keepdim=True)
    return values[part].squeeze(0), (part * parts.shape[1] + places[part]).squeeze(0)


def likeliest(logits: Tensor) -> Tensor:
    """Return the place of the largest logit of ``[vocab]``, int64 ``[]``; -1 where that is not finite."""
    return _if_finite(*largest(logits))


def _if_finite(top: Tensor, token: Tensor) -> Tensor:
    """Return a token, or -1 if the largest logit is not finite: NaN and infinity are larger than all.

    Both come to the host in one transfer, as the device has to be waited for.
    """
    return torch.where(top.abs() < torch.inf, token, -1)


def checked(token: int) -> int:
    """Return a token that is one.

    Raises:
        ModelError: it is -1, because the logits are not finite numbers.
    """
    if token < 0:
        raise not_finite()
    return token


class Sampler:
    """Greedy or sampled choice, as ``GenerationConfig`` says; repeatable with a seed.

    Attributes:
        takes_likeliest: it chooses what ``likeliest`` returns, whatever came before.
    """

    def __init__(self, generation: GenerationConfig, device: torch.device) -> None:
        processors = LogitsProcessorList()
        self._looks_back = generation.repetition_penalty != 1.0
        if self._looks_back:
            processors.append(RepetitionPenaltyLogitsProcessor(generation.repetition_penalty))
        self._greedy = generation.temperature == 0.0
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
        # Only the penalty looks back.
        seen = tokens if self._looks_back else ()
        history = cast(torch.LongTensor, torch.tensor([seen], dtype=torch.int64, device=logits.device))
        scores = self._processors(history, cast(torch.FloatTensor, logits.float().unsqueeze(0)))
        top, place = largest(scores.squeeze(0))
        if self._greedy:
            return checked(int(_if_finite(top, place)))
        # A GPU on which a draw fails is lost to the process.
        weights = torch.softmax(scores, dim=-1).nan_to_num(1.0)
        drawn = torch.multinomial(weights, 1, generator=self._generator).squeeze(0)
        return checked(int(_if_finite(top, drawn)))
