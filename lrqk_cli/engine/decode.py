"""One decode step of a model: eager, or captured once in a CUDA graph and replayed."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.engine.prefill import forward
from lrqk_cli.engine.sampling import likeliest


class Decoder:
    """Feeds single tokens to a model.

    Where the cache keeps its lengths on the device, the second such step is captured in a CUDA graph, and all
    further ones replay it: one launch instead of some thousand. The first runs eagerly, which compiles the
    kernels. A model that cannot be captured (it reads something back in every step, as RoPE that depends on
    the length does) stays eager. While a layer is observed steps are eager too, and a graph waits.

    A captured step also chooses the likeliest token and sends it to the host. Between two greedy steps the
    device waits for the host, which so has nothing to do but to read the token and to replay the graph.
    """

    def __init__(self, model: PreTrainedModel, cache: LrqkCache) -> None:
        self._model = model
        self._cache = cache
        self._token = torch.zeros((1, 1), dtype=torch.int64, device=cache.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self._likeliest = torch.zeros((), dtype=torch.int64, pin_memory=cache.device.type == "cuda")
        # The token that the newest replay has chosen and left in ``_token``, once the host has read it.
        self._chosen: int | None = None
        self._steps = 0
        self._can_capture = True

    @property
    def is_captured(self) -> bool:
        """Whether a step is one launch, which does not wait for what it starts."""
        return self._graph is not None

    def step(self, token: int) -> Tensor:
        """Return the logits ``[vocab]`` after ``token``, which is the next of the sequence.

        They are valid until the next step.
        """
        if token != self._chosen:
            self._token.fill_(token)
        self._chosen = None
        if self._cache.position is None:
            return self._forward()
        self._cache.finish_prefill()
        if self._cache.is_observed:
            return self._forward()
        self._steps += 1
        if self._graph is None and self._can_capture and self._steps > 1:
            self._capture()
        if self._graph is None or self._logits is None:
            return self._forward()
        length = self._cache.get_seq_length() + 1
        self._graph.replay()
        self._cache.sync_host_length(length)
        return self._logits

    def likeliest(self, logits: Tensor) -> int | None:
        """Return what ``sampling.likeliest`` would, where the newest step was replayed and left ``logits``.

        Waits for the device. None for other logits.
        """
        if logits is not self._logits:
            return None
        torch.cuda.current_stream(logits.device).synchronize()
        self._chosen = int(self._likeliest)
        return self._chosen

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        length = self._cache.get_seq_length()
        try:
            with torch.cuda.graph(graph):
                logits = self._forward()
                chosen = likeliest(logits)
                self._token.copy_(chosen)
                self._likeliest.copy_(chosen, non_blocking=True)
            self._graph, self._logits = graph, logits
        except RuntimeError:
            self._can_capture = False
        # Nothing has run: what the host has counted meanwhile has not happened.
        self._cache.sync_host_length(length)

    def _forward(self) -> Tensor:
        position = self._cache.position
        return forward(
            self._model, self._cache, self._token[0], None if position is None else position.unsqueeze(0)
        )
