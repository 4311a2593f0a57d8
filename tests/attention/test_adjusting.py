"""Settings that change while a conversation goes on, also where the change fails."""

from __future__ import annotations

import weakref
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from failing import failing_at
from made_rows import feed, two_layers

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.decode_step import LrqkStep
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.config import LrqkConfig, TailMode

CONTEXT = 120
CONFIG = LrqkConfig(hot=24, top_k=8, recent=8, rank=4)
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory.")


def new_cache() -> LrqkCache:
    """Return a cache with the steps of a GPU, on the plain references of their kernels."""
    with patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: True):
        return LrqkCache(two_layers(8), CONFIG, CONTEXT, torch.float32, torch.device("cpu"))


def steps_of(cache: LrqkCache) -> list[LrqkStep]:
    return [step for step in cache._steps.values() if isinstance(step, LrqkStep)]


@pytest.mark.parametrize("failure", [NO_MEMORY, KeyboardInterrupt()], ids=["memory", "interrupt"])
@pytest.mark.parametrize("place", ["adjust", "make_step", "fit_tail"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_change_that_fails_leaves_the_settings_before(
    failure: BaseException, place: str, call: int
) -> None:
    cache, other = new_cache(), new_cache()
    for each in (cache, other):
        feed(each, range(80))
        feed(each, [80])
    failing = failing_at(call, getattr(LrqkLayer, place), failure)
    with patch.object(LrqkLayer, place, failing), pytest.raises(type(failure)):
        cache.adjust(replace(CONFIG, tail="none", top_k=4))
    assert [cache.config, *(layer.config for layer in cache.lrqk_layers)] == [CONFIG] * 3
    # The steps have the tails that later fits are for.
    assert [step._value_tail for step in steps_of(cache)] == [layer.tail for layer in cache.lrqk_layers]
    for found, expected in zip(feed(cache, [81]), feed(other, [81]), strict=True):
        torch.testing.assert_close(found, expected)


def test_settings_that_change_to_and_fro_take_the_memory_of_one() -> None:
    cache = new_cache()
    state, before = cache._state, weakref.ref(steps_of(cache)[0]._buffers[1].scores.logits)
    assert state is not None
    tails: tuple[TailMode, ...] = ("none", "linear", "none", "mean")
    for tail in tails:
        cache.adjust(replace(CONFIG, tail=tail))
        assert state.lrqk_scratch.cache_info().currsize == state.attend_scratch.cache_info().currsize == 1
    assert before() is None


def test_steps_that_found_no_memory_are_made_before_the_next_prompt() -> None:
    cache, other = new_cache(), new_cache()
    full = patch.object(LrqkLayer, "make_step", side_effect=NO_MEMORY)
    with full, pytest.raises(torch.OutOfMemoryError):
        cache.track_sources(True)
    assert not cache.has_device_steps
    cache.allocate_hot_sets()
    assert cache.has_device_steps
    for each in (cache, other):
        feed(each, range(80))
    for found, expected in zip(feed(cache, [80]), feed(other, [80]), strict=True):
        assert torch.equal(found, expected)
    weights = cache.source_weights
    assert weights is not None
    assert sum(weights) > 0
