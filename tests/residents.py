"""What must be true of a cache's resident rows, and of the threads that solve for its factors."""

from __future__ import annotations

import threading

import torch

from lrqk_cli.attention.cache import LrqkCache


def check_rows(cache: LrqkCache) -> None:
    """Each slot has the row of its token, and none has another's."""
    length = cache.position.length
    for layer in cache.lrqk_layers:
        (key, value), *_ = layer.store.stream(0, length)
        share = layer.hot.rows.shape[0] // key.shape[0]
        tokens = layer.hot.resident_tokens(length)
        for number, part in enumerate((key, value)):
            rows = part.repeat_interleave(share, 0)
            expected = rows.gather(1, tokens.unsqueeze(2).expand(-1, -1, rows.shape[2]))
            assert torch.equal(layer.hot.resident_rows(length)[number], expected)
        hot = layer.hot.slot_token[:, : layer.hot.filled(length)]
        assert torch.equal(hot.sort(1).values, layer.hot.resident.nonzero()[:, 1].view_as(hot))


def solver_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lrqk-solver")]
