"""A model's forward pass, and one decode step: eager, or captured once in a CUDA graph and replayed."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.engine.sampling import likeliest
from lrqk_cli.upstream import cache_argument


class Decoder:
    """Feeds single tokens to a model.

    If the cache keeps its lengths on the device, the first step runs eagerly and compiles the kernels, the
    second is captured in a CUDA graph, and all further steps replay the graph: one launch instead of about a
    thousand. A model that reads a value back in every step, as RoPE that depends on the length does, cannot
    be captured and stays eager. While a layer is observed, steps are eager too.

    A captured step also chooses the likeliest token and sends it to the host. Between two greedy steps the
    device waits for the host, which then only reads the token and replays the graph.
    """

    def __init__(self, model: PreTrainedModel, cache: LrqkCache) -> None:
        self._model = model
        self._cache = cache
        self._token = torch.zeros(1, dtype=torch.int64, device=cache.device)
        # On the device, so that a replay reads them; the host knows those of plain steps.
        self._positions = cache.position.tensor.unsqueeze(0) if cache.has_device_steps else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        self._likeliest = torch.zeros((), dtype=torch.int64, pin_memory=cache.device.type == "cuda")
        # The token that the newest replay chose and wrote to ``_token``; None until the host has read it.
        self._chosen: int | None = None
        self._steps = 0
        self._can_capture = True

    @property
    def is_captured(self) -> bool:
        """Whether a step is a single launch that returns before the step has run."""
        return self._graph is not None

    def step(self, token: int) -> Tensor:
        """Append ``token`` to the sequence and return the logits ``[vocab]`` after it.

        The logits are valid until the next step.
        """
        if token != self._chosen:
            self._token.fill_(token)
        self._chosen = None
        cache = self._cache
        if cache.has_device_steps and not cache.observers:
            cache.finish_prefill()
            self._steps += 1
            if self._graph is None and self._can_capture and self._steps > 1:
                self._capture()
            if self._graph is not None and self._logits is not None:
                self._graph.replay()
                cache.position.length += 1
                return self._logits
        return forward(self._model, cache, self._token, self._positions)

    def likeliest(self, logits: Tensor) -> int | None:
        """Return the likeliest token of ``logits``, or -1, as ``sampling.likeliest`` does.

        Waits for the device. None if ``logits`` are not those of a replayed step.
        """
        if logits is not self._logits:
            return None
        torch.cuda.current_stream(logits.device).synchronize()
        self._chosen = int(self._likeliest)
        return self._chosen

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        length = self._cache.position.length
        try:
            # Another thread may copy rows to the disk meanwhile; only this thread's calls are captured.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                logits = forward(self._model, self._cache, self._token, self._positions)
                chosen = likeliest(logits)
                self._token.copy_(chosen)
                self._likeliest.copy_(chosen, non_blocking=True)
            self._graph, self._logits = graph, logits
        except RuntimeError:
            self._can_capture = False
        # Capturing runs no kernel, so undo the length that the host has counted.
        self._cache.position.length = length


@torch.inference_mode()
def forward(
    model: PreTrainedModel, cache: LrqkCache, tokens: Tensor, positions: Tensor | None = None
) -> Tensor:
    """Run ``tokens`` ``[n]`` through the model; return the logits ``[vocab]`` after the newest.

    Args:
        positions: ``[1, n]`` on the device; None lets transformers count them.
    """
    output = model(
        input_ids=tokens.unsqueeze(0),
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        **{cache_argument(): cache},
    )
    logits: Tensor = output.logits[0, -1]
    return logits
