"""Invariants of the rows that are resident on the device."""

from __future__ import annotations

from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrqk_cli.attention import hot_set
from lrqk_cli.attention.hot_set import HotSet, Ring
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels import plan_fetches, replace_rows
from lrqk_cli.kernels.buffers import StoredRows
from lrqk_cli.model_spec import ModelSpec

HEADS, WIDTH, CONTEXT = 2, 3, 80
CPU = torch.device("cpu")


def spec() -> ModelSpec:
    return ModelSpec("t", "t", ("full",), 4, HEADS, WIDTH, 12, 24, 97, CONTEXT, CONTEXT, 1)


def rows_of(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return K and V ``[KV, n, d]`` that tell their token and head."""
    base = tokens.view(1, -1, 1) * 10.0 + torch.arange(HEADS).view(-1, 1, 1)
    return base.expand(-1, -1, WIDTH), (base + 0.5).expand(-1, -1, WIDTH)


@given(size=st.integers(1, 9), cuts=st.lists(st.integers(1, 12), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_ring_holds_the_newest_rows_whatever_the_segments(size: int, cuts: list[int]) -> None:
    ring = Ring(torch.full((HEADS, size, 2, WIDTH), float("nan")))
    length = 0
    for count in cuts:
        ring.append(length, *rows_of(torch.arange(length, length + count)))
        length += count
        kept = min(size, length)
        key, value = ring.ordered(length, kept)
        expected = rows_of(torch.arange(length - kept, length))
        assert torch.equal(key, expected[0])
        assert torch.equal(value, expected[1])
        assert not ring.rows[:, :kept].isnan().any()


def check(hot: HotSet, length: int) -> None:
    """Every row stands where the tables say, and none twice."""
    candidates = hot.candidates(length)
    key, _ = hot.resident_rows(length)
    recent = min(length, hot.recent.size)
    assert key.shape[1] == recent + hot.filled(length)
    for head in range(HEADS):
        slots = hot.slot_token[head, : hot.filled(length)]
        assert hot.resident[head].nonzero().flatten().tolist() == sorted(slots.tolist())
        assert slots.numel() == 0 or int(slots.max()) < candidates
        tokens = torch.cat((slots, torch.arange(length - recent, length)))
        assert sorted(key[head, :, 0].tolist()) == sorted((tokens * 10.0 + head).tolist())


@given(
    capacity=st.integers(1, 30),
    recent=st.integers(1, 10),
    prompt=st.integers(1, 40),
    steps=st.integers(0, 30),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=60)
def test_tables_and_rows_agree_after_any_run(
    capacity: int, recent: int, prompt: int, steps: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    hot = HotSet(spec(), LrqkConfig(hot=capacity, top_k=capacity, recent=recent), CONTEXT, torch.float32, CPU)

    def fetch(length: int, wanted: int) -> None:
        candidates = hot.candidates(length)
        scores = torch.rand(HEADS, candidates, generator=random)
        plan = plan_fetches(scores, hot.resident[:, :candidates], hot.slot_token, wanted)
        replace_rows(hot.residents, plan, StoredRows(torch.stack(rows_of(torch.arange(CONTEXT)), 2)))

    hot.recent.append(0, *rows_of(torch.arange(prompt)))
    hot.fill(0, *rows_of(torch.arange(min(hot.candidates(prompt), hot.size))))
    if hot.candidates(prompt) > hot.size:
        fetch(prompt, hot.size)
    check(hot, prompt)
    for length in range(prompt, min(prompt + steps, CONTEXT)):
        hot.append(length, *rows_of(torch.tensor([length])))
        if hot.candidates(length + 1) > hot.size:
            fetch(length + 1, max(1, hot.size // 2))
        check(hot, length + 1)


@given(
    capacity=st.integers(1, 60),
    recent=st.integers(1, 20),
    cuts=st.lists(st.integers(1, 25), min_size=1, max_size=3),
    first=st.integers(0, 79),
    grouping=st.sampled_from(["kv", "head"]),
    chunk=st.sampled_from([1, 7, 8192]),
)
@settings(deadline=None)
def test_free_slots_are_filled_in_order_whatever_the_segments(
    capacity: int, recent: int, cuts: list[int], first: int, grouping: str, chunk: int
) -> None:
    config = LrqkConfig(hot=capacity, top_k=capacity, recent=recent, grouping=grouping)
    hot = HotSet(spec(), config, CONTEXT, torch.float32, CPU)
    length = 0
    for count in cuts:
        hot.append(length, *rows_of(torch.arange(length, length + count)))
        length += count
        filled = hot.filled(length)
        assert torch.equal(
            hot.slot_token[:, :filled], torch.arange(filled).expand_as(hot.slot_token[:, :filled])
        )
        assert (hot.slot_token[:, filled:] == -1).all()
        assert hot.resident.sum(1).tolist() == [filled] * hot.rows.shape[0]
        expected = rows_of(hot.resident_tokens(length)[0])
        share = hot.rows.shape[0] // HEADS
        for rows, part in zip(hot.resident_rows(length), expected, strict=True):
            assert torch.equal(rows, part.repeat_interleave(share, 0))
    first = min(first, length)
    if hot.candidates(length) <= hot.size:
        with patch.object(hot_set, "STREAM_ROWS", chunk):
            parts = list(hot.keys(first, length))
        assert all(0 < part.shape[1] <= chunk for part in parts)
        keys = torch.cat(parts, 1) if parts else torch.empty(HEADS, 0, WIDTH)
        assert torch.equal(keys, rows_of(torch.arange(first, length))[0])
