"""The same exactness on a CUDA device, where rows live in pinned memory and are streamed through buffers."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, full_attention_logits, random_tokens, tiny_model

from lrqk_cli import attach
from lrqk_cli.attention import host_store, layer_list
from lrqk_cli.config import AlsConfig, AttentionMode, GenerationConfig, KvDtype, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import PinningError
from lrqk_cli.memory import activations, tensors
from lrqk_cli.memory.managed import has_managed
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.upstream import cache_argument

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("stream_rows", [33, 8192])
@pytest.mark.parametrize("mode", ["lrqk", "dense", "offload"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_full_attention(
    family: str, mode: str, stream_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "STREAM_ROWS", stream_rows)
    model = tiny_model(family).to("cuda")
    tokens = random_tokens(400).to("cuda")
    expected = full_attention_logits(model, tokens)
    turns = [(0, 150), (150, 300), *((i, i + 1) for i in range(300, 320)), (320, 380)]
    turns += [(i, i + 1) for i in range(380, 400)]
    settings = LrqkConfig(attention=mode, hot=512, top_k=64, recent=16)
    with torch.no_grad(), attach(model, settings, context=512) as cache:
        parts = [model(tokens[a:b].unsqueeze(0), **{cache_argument(): cache}).logits[0] for a, b in turns]
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("stream_rows", "is_pinned"), [(33, False), (8192, False), (33, True)])
@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
@pytest.mark.parametrize("attention", ["lrqk", "offload"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-oss"])
def test_rows_in_8_bits_give_the_logits_of_the_cpu(
    family: str,
    attention: AttentionMode,
    kv_dtype: KvDtype,
    stream_rows: int,
    is_pinned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything resident. A rounding may go the other way, so few numbers differ, and those by little."""
    monkeypatch.setattr(activations, "STREAM_ROWS", stream_rows)
    if is_pinned:
        monkeypatch.setattr(host_store, "empty_managed", lambda *_: None)
    tokens = random_tokens(400)
    turns = [(0, 150), (150, 300), *((i, i + 1) for i in range(300, 320)), (320, 400)]
    settings = LrqkConfig(attention, hot=512, top_k=64, recent=16, kv_dtype=kv_dtype)
    found = []
    for device in ("cpu", "cuda"):
        model = tiny_model(family).to(device)
        with torch.no_grad(), attach(model, settings, context=512) as cache:
            parts = [
                model(tokens[None, a:b].to(device), **{cache_argument(): cache}).logits[0] for a, b in turns
            ]
            found.append(torch.cat(parts).cpu())
    exact = full_attention_logits(tiny_model(family), tokens)
    difference = (found[1] - found[0]).abs()
    assert difference.mean() < 0.1 * (found[0] - exact).abs().mean()
    assert difference.max() < 0.05


@pytest.mark.parametrize("is_pinned", [False, True])
@pytest.mark.parametrize("policy", ["exact", "refetch"])
@pytest.mark.parametrize("grouping", ["kv", "head"])
@pytest.mark.parametrize("family", ["llama", "gpt-oss"])
def test_the_methods_of_the_paper_choose_as_on_the_cpu(
    family: str, grouping: str, policy: str, is_pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_pinned:
        monkeypatch.setattr(host_store, "empty_managed", lambda *_: None)
    tokens = random_tokens(220)
    settings = LrqkConfig(
        rank=4, top_k=40, recent=16, solver="als", grouping=grouping, hot_policy=policy, als=AlsConfig("top")
    )
    found = []
    for device in ("cpu", "cuda"):
        model = tiny_model(family).to(device)
        with torch.no_grad(), attach(model, settings, context=256) as cache:
            model(tokens[None, :200].to(device), **{cache_argument(): cache})
            parts = [
                model(token.view(1, 1).to(device), **{cache_argument(): cache}).logits[0]
                for token in tokens[200:]
            ]
            found.append((torch.cat(parts).cpu().log_softmax(-1), cache.counters.take().rows_fetched))
    # The recursion of the paper amplifies the last bit; see docs/design.md.
    assert (found[0][0] - found[1][0]).abs().mean() < 2e-2
    assert found[0][1] == pytest.approx(found[1][1], rel=0.05)


def test_host_rows_are_exact_in_size() -> None:
    model = tiny_model("llama").to("cuda")
    with attach(model, LrqkConfig(hot=32, top_k=16, recent=8), context=300) as cache:
        for layer in cache.attention_layers:
            assert layer.store.rows.device.type == "cpu"
            assert layer.store._is_managed == has_managed(torch.device("cuda"))
            assert not layer.store.is_pageable
        assert layer_list.host_kv_bytes(cache.attention_layers) == 2 * 2 * 300 * 2 * 8 * 4


def test_pageable_rows_give_the_answer_of_the_cpu_where_none_can_be_pinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few rows are resident, so steps fetch rows, which the host gathers."""
    register = tensors._register
    monkeypatch.setattr(host_store, "empty_managed", lambda *_: None)
    # A range that is registered twice is refused, as where memory cannot be pinned.
    monkeypatch.setattr(tensors, "_register", lambda rows: (register(rows), register(rows)))
    settings = LrqkConfig(hot=64, top_k=16, recent=16, rank=8, segment=128, lookup=0)
    found = []
    for device in ("cpu", "cuda"):
        model = tiny_model("llama").to(device)
        spec = spec_from_config(model.config, "tiny")
        with Engine(model, spec, settings, 512, may_page=True) as engine:
            assert engine.is_pageable == (device == "cuda")
            assert not engine.cache.has_device_steps
            list(engine.prefill(random_tokens(400).tolist()))
            steps = engine.generate(GenerationConfig(temperature=0.0, max_new_tokens=4), ())
            found.append([step.token for step in steps])
    assert found[0] == found[1]
    with pytest.raises(PinningError):
        Engine(model, spec, settings, 512)
    # CUDA has forgotten the error.
    assert torch.ones(2, device="cuda").sum() == 2
