"""Rows in 8 bits: one rounding, which everything sees."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import full_attention_logits, random_tokens, tiny_model
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from lrqk_cli import attach
from lrqk_cli.attention import host_store, row_scales
from lrqk_cli.attention.hook import attending_by
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.row_scales import fit_row_scales
from lrqk_cli.config import KvDtype, LrqkConfig
from lrqk_cli.errors import PinningError, UsageError
from lrqk_cli.kernels.buffers import RowScales, StoredRows
from lrqk_cli.kernels.quantise_rows.reference import quantise_rows
from lrqk_cli.memory import activations, tensors
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.upstream import cache_argument

IN_8_BITS: list[KvDtype] = ["int8", "fp8"]
HEADS, WIDTH, CONTEXT = 2, 16, 300
DEVICES = ["cpu", pytest.param("cuda", marks=[
    pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
])]  # fmt: skip


def new_store(
    kv_dtype: KvDtype, device: str = "cpu", dtype: torch.dtype = torch.float32, context: int = CONTEXT
) -> RowStore:
    spec = ModelSpec("t", "t", ("full",), 4, HEADS, WIDTH, 12, 24, 97, context, context, 1)
    return RowStore(spec, context, dtype, torch.device(device), on_device=False, kv_dtype=kv_dtype)


def rows(count: int, seed: int) -> Tensor:
    """Return K and V of tokens, with channels of other centres and spreads."""
    random = torch.Generator().manual_seed(seed)
    channel = torch.Generator().manual_seed(0)
    centre = 20 * torch.randn(2, HEADS, 1, WIDTH, generator=channel)
    spread = 4 * torch.rand(2, HEADS, 1, WIDTH, generator=channel)
    return centre + spread * torch.randn(2, HEADS, count, WIDTH, generator=random)


def drifting(count: int) -> Tensor:
    """Return K and V whose channels move far away in the course of the tokens."""
    token = torch.arange(count).view(1, 1, count, 1)
    return rows(count, 7) + 50 * torch.sin(token / 1500 + torch.arange(WIDTH))


def test_channels_that_hardly_moved_lose_none_of_a_later_token() -> None:
    """Tiny numbers, of which one channel's deviation is not zero in the dtype."""
    first, later = torch.zeros(2, HEADS, 4, WIDTH), rows(1, 3)
    first[:, :, 1, 2] = 1e-44
    store = new_store("int8")
    store.write(0, *first)
    key, value = store.write(4, *later)
    for found, expected in ((key, later[0]), (value, later[1])):
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def streamed(store: RowStore, start: int, stop: int) -> Tensor:
    # A chunk is valid until the next one.
    chunks = [torch.stack(chunk).clone() for chunk in store.stream(start, stop)]
    return torch.cat(chunks, 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_pinned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_dtype", ["bf16", *IN_8_BITS])
@settings(max_examples=20, deadline=None)
@given(
    counts=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    chunk=st.sampled_from([7, 32, 8192]),
    window=st.tuples(st.integers(0, 90), st.integers(1, 90)),
)
def test_what_is_streamed_is_what_writing_returned(
    device: str,
    is_pinned: bool,
    dtype: torch.dtype,
    kv_dtype: KvDtype,
    counts: list[int],
    chunk: int,
    window: tuple[int, int],
) -> None:
    if is_pinned and device == "cpu":
        pytest.skip("a CPU has one kind of memory")
    written = list[Tensor]()
    with pytest.MonkeyPatch.context() as patch:
        if is_pinned:
            patch.setattr(host_store, "empty_managed", lambda *_: None)
        store = new_store(kv_dtype, device, dtype)
        patch.setattr(activations, "STREAM_ROWS", chunk)
        start = 0
        for number, count in enumerate(counts):
            found = store.write(start, *rows(count, number).to(device, dtype))
            written.append(torch.stack(found))
            start += count
        first, last = min(window[0], start - 1), min(start, window[0] + window[1])
        expected = torch.cat(written, 2)[:, :, first:last]
        assert torch.equal(streamed(store, first, last), expected)


@pytest.mark.parametrize(("kv_dtype", "error"), [("bf16", 0.0), ("int8", 0.02), ("fp8", 0.12)])
def test_rows_are_near_those_of_the_model(kv_dtype: KvDtype, error: float) -> None:
    """Relative to the usual spread of a channel, however far its numbers are from zero."""
    store = new_store(kv_dtype)
    exact = rows(200, 5)
    found = torch.stack(store.write(0, *exact))
    usual = (exact - exact.mean(2, keepdim=True)).square().mean().sqrt()
    assert (found - exact).square().mean().sqrt() <= error * usual


@pytest.mark.parametrize("cuts", [[300], [16], [10, 16, 40, 128, 129, 160, 250], [*range(1, 300)]], ids=len)
def test_a_blocks_scales_are_those_of_its_own_tokens_or_of_the_block_before(
    cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a text is cut, and only a block's beginning decides."""
    monkeypatch.setattr(row_scales, "SCALE_TOKENS", 16)
    monkeypatch.setattr(row_scales, "_LEAST_TOKENS", 4)
    exact = drifting(CONTEXT)
    scales = RowScales(torch.full((HEADS, CONTEXT // 16 + 1, 2, 2, WIDTH), float("nan")), "int8")
    bounds = [0, *[cut for cut in cuts if cut < CONTEXT], CONTEXT]
    for start, stop in pairwise(bounds):
        row_scales.fit_row_scales(scales, start, *exact[:, :, start:stop])
    before = None
    for block in range(-(-CONTEXT // 16)):
        first = block * 16
        stop = next(bound for bound in bounds if bound > first)
        tokens = exact[:, :, first : min(stop, first + 16)].double()
        found = scales.channels[:, block]
        if block and tokens.shape[2] < 4:
            assert torch.equal(found, before)
        else:
            centre = tokens.mean(2).transpose(0, 1)
            torch.testing.assert_close(found[:, 0].double(), centre, atol=1e-4, rtol=1e-4)
            deviation = (tokens - tokens.mean(2, keepdim=True)).square().mean(2).sqrt()
            least = 0.1 * deviation.square().mean(2, keepdim=True).sqrt()
            spread = deviation.maximum(least).sqrt().transpose(0, 1)
            spread = torch.where(spread > 0, spread, 1.0)
            torch.testing.assert_close(found[:, 1].double(), spread, atol=1e-4, rtol=1e-4)
        before = found


def test_rows_that_drift_keep_their_precision() -> None:
    store = new_store("int8", context=4000)
    exact = drifting(4000)
    found = torch.cat(
        [torch.stack(store.write(n, *exact[:, :, n : n + 700])) for n in range(0, 4000, 700)], 2
    )
    error = (found - exact).square().mean((0, 1, 3)).sqrt()
    assert error.max() < 0.2
    assert error[-100:].mean() < 2 * error[:512].mean()


@pytest.mark.parametrize("kv_dtype", IN_8_BITS)
def test_one_token_alone_is_stored(kv_dtype: KvDtype) -> None:
    store = new_store(kv_dtype)
    exact = rows(1, 3).bfloat16().float()
    assert torch.equal(torch.stack(store.write(0, *exact)), exact)
    later = torch.stack(store.write(1, *rows(5, 4)))
    assert later.isfinite().all()


def test_the_device_keeps_exact_rows() -> None:
    with pytest.raises(UsageError, match="host memory"):
        LrqkConfig(attention="dense", kv_dtype="int8")


def rounding(kv_dtype: KvDtype, first: int) -> Any:
    """Return full attention over K and V rounded with the scales of the first tokens."""

    def attend(_: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any, **options: Any) -> Any:
        heads, count, width = key.shape[1:]
        scales = RowScales(torch.empty(heads, 1, 2, 2, width, dtype=torch.bfloat16), kv_dtype)
        fit_row_scales(scales, 0, key[0, :, :first], value[0, :, :first])
        rows = torch.empty(heads, count, 2 * width + 4, dtype=torch.uint8)
        key, value = quantise_rows(key[0], value[0], StoredRows(rows, scales))
        share = query.shape[1] // heads
        logits = query[0] @ key.repeat_interleave(share, 0).mT * options["scaling"]
        logits = logits.masked_fill(torch.ones(count, count).triu(1).bool(), float("-inf"))
        output = logits.softmax(-1) @ value.repeat_interleave(share, 0)
        return output.transpose(0, 1).unsqueeze(0), None

    return attend


@pytest.mark.parametrize("attention", ["lrqk", "offload"])
@pytest.mark.parametrize("kv_dtype", IN_8_BITS)
def test_attention_is_exact_over_the_rounded_rows(kv_dtype: KvDtype, attention: Any) -> None:
    model, tokens = tiny_model("llama"), random_tokens(170)
    exact = full_attention_logits(model, tokens)
    AttentionInterface.register("rounding", rounding(kv_dtype, 50))
    AttentionMaskInterface.register("rounding", lambda *_, **__: None)
    with attending_by(model, "rounding"), torch.no_grad():
        expected = model(tokens.unsqueeze(0), use_cache=False).logits[0]
    config = LrqkConfig(attention, hot=256, top_k=64, recent=16, kv_dtype=kv_dtype)
    found = list[Tensor]()
    with torch.no_grad(), attach(model, config, context=256) as cache:
        for first, last in [(0, 50), (50, 57), (57, 120), *((n, n + 1) for n in range(120, 130)), (130, 170)]:
            with cache.prefilling() if last - first > 1 else torch.no_grad():
                found.append(model(tokens[None, first:last], **{cache_argument(): cache}).logits[0])
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-4, rtol=0)
    assert (expected - exact).abs().max() > 1e-3


def test_rows_that_cannot_be_pinned_are_pageable_if_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: torch.Tensor) -> None:
        raise PinningError("8 GiB of host memory cannot be pinned.")

    monkeypatch.setattr(host_store, "empty_managed", lambda *_: None)
    monkeypatch.setattr(tensors, "_register", refuse)
    monkeypatch.setattr(host_store, "_copy_streams", lambda _: None)
    spec = spec_from_config(tiny_model("llama").config, "tiny")
    arguments = spec, 64, torch.float32, torch.device("cuda")
    with pytest.raises(PinningError):
        RowStore(*arguments, on_device=False)
    store = RowStore(*arguments, on_device=False, may_page=True)
    assert store.is_pageable
    assert store.borrowed().is_pageable
    assert store.rows.shape == (2, 64, 2, 8)
