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


class Sampler:
    """Greedy or sampled choice, as ``GenerationConfig`` says; repeatable with a seed."""

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
        if self._greedy and not self._processors:
            return _checked(*largest(logits))
        # Only the penalty looks back.
        seen = tokens if self._looks_back else ()
        history = cast(torch.LongTensor, torch.tensor([seen], dtype=torch.int64, device=logits.device))
        scores = self._processors(history, cast(torch.FloatTensor, logits.float().unsqueeze(0)))
        top, place = largest(scores.squeeze(0))
        if self._greedy:
            return _checked(top, place)
        # A GPU on which a draw fails is lost to the process.
        weights = torch.softmax(scores, dim=-1).nan_to_num(1.0)
        return _checked(top, torch.multinomial(weights, 1, generator=self._generator))


def _checked(top: Tensor, token: Tensor) -> int:
    """Return a token to the host, if the largest logit is finite: NaN and infinity are larger than all.

    Both come in one transfer, as the device has to be waited for.
    """
    chosen = int(torch.where(torch.isfinite(top), token, -1))
    if chosen < 0:
        raise not_finite()
    return chosen
