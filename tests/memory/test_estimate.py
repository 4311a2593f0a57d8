"""Shapes of scratch against what the kernels' buffers allocate, and what an estimate adds up."""

from __future__ import annotations

from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, tiny_model

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels import buffers, launch_scratch
from lrqk_cli.memory import activations, scratch
from lrqk_cli.memory.accounting import TensorShape
from lrqk_cli.memory.estimate import estimate
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.support import spec_from_config

CPU = torch.device("cpu")
SIZES = [(2, 3, 8, 40, 700), (8, 4, 64, 8128, 70_001), (32, 1, 32, 2048, 5000)]


def stated(buffer: NamedTuple) -> dict[str, TensorShape]:
    return {
        name: TensorShape(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in buffer._asdict().items()
        if tensor is not None
    }


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize(("sets", "queries", "rank", "hot", "context"), SIZES)
def test_scratch_is_what_the_buffers_allocate(
    sets: int, queries: int, rank: int, hot: int, context: int, tail: bool
) -> None:
    tail_rank = rank if tail else None
    projected = buffers.Projected.empty(sets, queries, rank, CPU)
    assert scratch.projected(sets, queries, rank) == stated(projected)
    scores = buffers.TokenScores.empty(sets, queries, context, CPU, tail_rank=tail_rank)
    assert scratch.token_scores(sets, queries, context, tail_rank) == stated(scores)
    select = launch_scratch.SelectScratch.empty(sets, hot, context, CPU)
    assert scratch.select_scratch(sets, hot, context) == stated(select)
    assert scratch.fetch_plan(sets, hot) == stated(buffers.FetchPlan.empty(sets, hot, CPU))
    attend = launch_scratch.AttendScratch.empty(sets, queries, hot + 64, 16, CPU, tail_rank=tail_rank)
    assert scratch.attend_scratch(sets, queries, hot + 64, 16, tail_rank) == stated(attend)


def storages(owner: object, seen: dict[int, int], ids: set[int]) -> None:
    """Add the storage of every tensor that an object of ours holds."""
    if id(owner) in ids:
        return
    ids.add(id(owner))
    if isinstance(owner, torch.Tensor):
        seen[owner.untyped_storage().data_ptr()] = owner.untyped_storage().nbytes()
    elif isinstance(owner, tuple | dict):
        for part in owner.values() if isinstance(owner, dict) else owner:
            storages(part, seen, ids)
    elif type(owner).__module__.startswith("lrqk_cli") and hasattr(owner, "__dict__"):
        for part in vars(owner).values():
            storages(part, seen, ids)


@pytest.mark.parametrize("mode", ["lrqk", "dense"])
@pytest.mark.parametrize("family", FAMILIES)
def test_decode_scratch_is_what_the_steps_hold(family: str, mode: str) -> None:
    spec = spec_from_config(tiny_model(family).config, family)
    settings = LrqkConfig(attention=mode, hot=64, top_k=16, recent=8, rank=4)

    def held(*, on_device: bool) -> int:
        with patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: on_device):
            cache = LrqkCache(spec, settings, 300, torch.bfloat16, CPU)
        seen: dict[int, int] = {}
        storages((cache._state, *cache._steps.values(), *cache.attention_layers), seen, set())
        return sum(seen.values())

    stated_bytes = sum(shape.nbytes for shape in scratch.decode_scratch(spec, settings, 300))
    # A plan's own totals give way to those that all layers share; the position is there in any case.
    stated_bytes -= 16 if mode == "lrqk" and spec.num_full_layers else 0
    assert held(on_device=True) - held(on_device=False) == stated_bytes - 16


LLAMA = ModelSpec(
    name="llama-3.1-8b",
    architecture="LlamaForCausalLM",
    layer_kinds=("full",) * 32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    hidden_size=4096,
    intermediate_size=14336,
    vocab_size=128256,
    max_context=131072,
    trained_context=131072,
    num_parameters=8_030_261_248,
)


@pytest.mark.parametrize("mode", ["lrqk", "dense", "offload"])
def test_the_total_is_the_sum_and_never_shrinks_with_the_context(mode: str) -> None:
    estimates = [
        estimate(LLAMA, LrqkConfig(attention=mode), context, "bfloat16") for context in (8192, 65536)
    ]
    assert estimates[0].total <= estimates[1].total
    assert (estimates[0].total < estimates[1].total) == (mode != "offload")
    for found in estimates:
        assert found.total == sum(found.items.values())
        assert 0 < found.allocated < found.total
        assert (found.host_kv == 0) == (mode == "dense")


def test_a_shorter_segment_needs_less() -> None:
    totals = [
        estimate(LLAMA, LrqkConfig(segment=segment), 65536, "bfloat16").total
        for segment in (1024, 2048, 4096, 8192)
    ]
    assert totals == sorted(totals)


def test_stream_buffers_are_those_of_the_store() -> None:
    assert activations.stream_buffers(LLAMA, 0, "bfloat16") == ()
    assert len(activations.stream_buffers(LLAMA, 8192, "bfloat16")) == 1
    buffers_of_two = activations.stream_buffers(LLAMA, 8193, "bfloat16")
    assert [buffer.shape for buffer in buffers_of_two] == [(8, 8192, 2, 128)] * 2
    # A long segment has longer chunks, and a second buffer in case that the last one is shorter.
    assert [buffer.shape for buffer in activations.stream_buffers(LLAMA, 9000, "bfloat16", segment=8192)] == [
        (8, 9000, 2, 128)
    ] * 2
    for segment, size in ((512, 8192), (4096, 8192), (6000, 12000), (8192, 16384), (32768, 16384)):
        of_segment = activations.stream_buffers(LLAMA, 40_000, "bfloat16", segment=segment)
        assert [buffer.shape for buffer in of_segment] == [(8, size, 2, 128)] * 2


@settings(max_examples=200, deadline=None)
@given(segment=st.integers(1, 20_000), data=st.data())
def test_stream_buffers_suffice_for_all_segments(segment: int, data: st.DataObject) -> None:
    """For shorter segments, and for fewer rows before them."""
    rows = data.draw(st.integers(1, 60_000))
    actual, earlier = data.draw(st.integers(1, segment)), data.draw(st.integers(1, rows))
    size = activations.stream_rows(actual)
    needed = min(size, earlier) * min(2, -(-earlier // size))
    stated = activations.stream_buffers(LLAMA, rows, "bfloat16", segment=segment)
    assert needed <= sum(buffer.shape[1] for buffer in stated)
