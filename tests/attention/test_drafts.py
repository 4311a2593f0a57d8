"""Verify steps of either kind: any mixture of steps gives the cache of single tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from made_rows import PARAMS, feed, row, rows, two_layers, verify
from torch import Tensor

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.config import KvDtype, LrqkConfig, TailMode
from lrqk_cli.memory import accounting

CONTEXT, HEADS, GROUP, WIDTH = 80, 2, 3, 6
SPEC = two_layers(WIDTH)
ALL_ROWS = LrqkConfig(hot=CONTEXT, top_k=8, recent=5, rank=4)
DRAFTS = 3


def new_cache(config: LrqkConfig, on_device: bool = False) -> LrqkCache:
    """Return a cache; ``on_device`` with the steps of a GPU on the plain references of their kernels."""
    with patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: on_device):
        cache = LrqkCache(SPEC, config, CONTEXT, torch.float32, torch.device("cpu"))
    for layer in cache.lrqk_layers:  # nothing undefined may be read
        assert layer.drafts is not None
        layer.drafts.rows.fill_(torch.nan)
        layer.hot.rows.fill_(torch.nan)
        layer.store.rows.view(-1).fill_(0)
    return cache


@contextmanager
def holding(holds: bool) -> Iterator[None]:
    """Let steps put the index off while all rows are resident, or keep it up from the first step on."""
    if holds:
        yield
        return
    with patch.object(LrqkCache, "holds_all", lambda *_: False):
        yield


def state(cache: LrqkCache) -> list[Tensor]:
    """All that later steps read: stored rows, codes and resident rows with their tokens."""
    length, found = cache.position.length, list[Tensor]()
    for layer in cache.lrqk_layers:
        key, value = layer.hot.resident_rows(length)
        indexed = length if layer.prefill is None else layer.prefill.indexed
        stored = layer.store.rows[:, :length], layer.index.codes[:, :indexed]
        found += [*stored, key, value, layer.hot.resident_tokens(length), layer.hot.resident]
    return found


def assert_same(found: LrqkCache, expected: LrqkCache) -> None:
    assert found.position.length == expected.position.length == int(found.position.tensor)
    assert found.position.pending == int(found.position.pending_tensor) == 0
    for own, other in zip(state(found), state(expected), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


@pytest.mark.parametrize("grouping", ["kv", "head"])
@pytest.mark.parametrize("accepted", range(DRAFTS + 1))
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("holds", [False, True])
def test_each_accepted_draft_has_the_output_of_a_step_of_its_own(
    holds: bool, on_device: bool, accepted: int, grouping: str
) -> None:
    config = replace(ALL_ROWS, grouping=grouping)
    found, expected = new_cache(config, on_device), new_cache(config)
    with holding(holds):
        for cache in (found, expected):
            feed(cache, range(20))
        outputs = verify(found, accepted)
        for place in range(accepted + 1):
            alone = feed(expected, [20 + place])
            for output, other in zip(outputs, alone, strict=True):
                torch.testing.assert_close(output[:, :, place : place + 1], other, rtol=1e-4, atol=1e-5)
        found.settle()
    assert all((layer.prefill is not None) is holds for layer in found.lrqk_layers)
    assert_same(found, expected)


@pytest.mark.parametrize("tail", ["none", "linear"])
@pytest.mark.parametrize("on_device", [False, True])
def test_each_draft_attends_to_residents_and_the_drafts_before_it(on_device: bool, tail: TailMode) -> None:
    """Beside a float64 oracle; the tail has no oracle but the plain step's."""
    config = replace(ALL_ROWS, hot=8, top_k=4, tail=tail)
    cache = new_cache(config, on_device)
    feed(cache, range(40))
    outputs = verify(cache, DRAFTS)
    for number, layer in enumerate(cache.lrqk_layers):
        residents = layer.hot.resident_tokens(41)
        for head in range(HEADS):
            for place in range(DRAFTS + 1):
                tokens = [*residents[head].tolist(), *range(41, 41 + place)]
                key, value = (rows(SPEC, tokens, number, name)[head].double() for name in ("key", "value"))
                query = row(SPEC, 40 + place, number, "query").view(HEADS, GROUP, WIDTH)[head].double()
                weights = torch.softmax(query @ key.mT * PARAMS.scaling, -1)
                found = outputs[number][head, :, place].double()
                if tail == "none":
                    torch.testing.assert_close(found, weights @ value, rtol=1e-5, atol=1e-5)
                else:
                    assert (found - weights @ value).abs().max() < 1.5


STEPS = st.one_of(
    st.tuples(st.just("verify"), st.integers(0, DRAFTS)),
    st.tuples(st.just("step"), st.just(1)),
    st.tuples(st.just("segment"), st.integers(2, 9)),
    st.tuples(st.sampled_from(["point", "rewind", "settle"]), st.just(0)),
)


@settings(deadline=None, max_examples=80)
@given(
    steps=st.lists(STEPS, max_size=14),
    prompt=st.integers(1, 12),
    recent=st.integers(1, 9),
    kv_dtype=st.sampled_from(["bf16", "int8"]),
    on_device=st.booleans(),
    holds=st.booleans(),
)
def test_any_sequence_leaves_the_cache_of_single_tokens(
    steps: list[tuple[str, int]], prompt: int, recent: int, kv_dtype: KvDtype, on_device: bool, holds: bool
) -> None:
    config = replace(ALL_ROWS, recent=recent, kv_dtype=kv_dtype)
    with holding(holds):
        found, expected = new_cache(config, on_device), new_cache(config, on_device)
        for cache in (found, expected):
            feed(cache, range(prompt))
        play(steps, found, expected)
        for cache in (found, expected):
            cache.settle()
            feed(cache, [cache.position.length])  # finishes a prefill
        assert_same(found, expected)


def play(steps: list[tuple[str, int]], found: LrqkCache, expected: LrqkCache) -> None:
    """Take steps with one cache, and with the other the same tokens one by one."""
    points = []
    for kind, count in steps:
        first = found.position.length
        if kind == "point":
            points.append((found.rewind_point(), expected.rewind_point()))
        elif kind == "settle":
            found.settle()
        elif kind == "rewind" and points:
            for cache, point in zip((found, expected), points[-1], strict=True):
                cache.rewind(point)
        elif first + 9 > CONTEXT or kind == "rewind":
            continue
        elif kind == "verify":
            verify(found, count)
            for token in range(first, first + count + 1):
                feed(expected, [token])
        elif kind == "step":
            for cache in (found, expected):
                feed(cache, [first])
        else:
            for cache in (found, expected):
                feed(cache, range(first, first + count))


@pytest.mark.parametrize("hot", [8, 17])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_rewind_after_acceptances_is_exact_with_few_rows(on_device: bool, hot: int) -> None:
    cache = new_cache(replace(ALL_ROWS, hot=hot, top_k=4), on_device)
    feed(cache, range(40))
    feed(cache, [40])
    point, before = cache.rewind_point(), state(cache)
    for accepted in (2, 0, 3):
        verify(cache, accepted)
    cache.rewind(point)
    for own, other in zip(state(cache), before, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


def with_(**changes: object) -> LrqkConfig:
    return replace(ALL_ROWS, **changes)


@pytest.mark.parametrize(
    ("config", "drafts"),
    [
        (with_(), 3),
        (with_(lookup=0), 0),
        (with_(lookup=50), 9),  # of 32 queries of a row set, three a token
        (with_(lookup=50, grouping="head"), 31),
        (with_(attention="dense"), 0),
        (with_(solver="als"), 0),
        (with_(hot_policy="exact"), 0),
    ],
)
def test_the_drafts_in_force(config: LrqkConfig, drafts: int) -> None:
    assert accounting.draft_tokens(SPEC, config) == drafts
    sliding = replace(SPEC, layer_kinds=("full", "sliding"), sliding_window=8)
    assert accounting.draft_tokens(sliding, config) == 0
    cache = LrqkCache(SPEC, config, CONTEXT, torch.float32, torch.device("cpu"))
    assert cache.draft_tokens == drafts


def watch_a_layer(cache: LrqkCache) -> None:
    cache.observers[0] = lambda *_: None


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("holds", [False, True])
def test_of_a_verify_step_only_the_first_token_counts_for_sources(holds: bool, on_device: bool) -> None:
    """The drafts may be rejected."""
    found, expected = new_cache(ALL_ROWS, on_device), new_cache(ALL_ROWS)
    with holding(holds):
        for cache in (found, expected):
            cache.track_sources(wanted=True)
            feed(cache, range(20))
        verify(found, 0)
        feed(expected, [20])
        found.settle()
    assert found.source_weights is not None
    assert expected.source_weights is not None
    torch.testing.assert_close(torch.tensor(found.source_weights), torch.tensor(expected.source_weights))


def fill(cache: LrqkCache) -> None:
    feed(cache, range(CONTEXT - DRAFTS))


@pytest.mark.parametrize("prevent", [watch_a_layer, fill])
def test_no_drafts_while_a_layer_is_watched_or_without_room(prevent: Callable[[LrqkCache], None]) -> None:
    cache = new_cache(ALL_ROWS)
    feed(cache, range(CONTEXT - DRAFTS - 1))
    assert cache.draft_tokens == DRAFTS
    if prevent is fill:
        cache.reset()
    prevent(cache)
    assert cache.draft_tokens == 0
