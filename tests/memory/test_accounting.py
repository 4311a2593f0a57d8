"""Estimates against what is allocated, to the byte."""

from __future__ import annotations

import pytest
import torch
from tiny import FAMILIES, tiny_model

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.layers import FullLayer
from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory import accounting
from lrqk_cli.models.support import spec_from_config

CONTEXT = 300


@pytest.mark.parametrize("mode", ["lrqk", "dense", "offload"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kv_bytes_equal_the_allocated_ones(family: str, mode: str) -> None:
    spec = spec_from_config(tiny_model(family).config, family)
    for settings in (
        LrqkConfig(attention=mode, hot=64, top_k=16, recent=8, rank=4),
        LrqkConfig(attention=mode, hot=4096, rank=200, index_bits=16),
    ):
        cache = LrqkCache(spec, settings, CONTEXT, torch.bfloat16, torch.device("cpu"))
        expected = accounting.kv_bytes(spec, settings, CONTEXT, "bfloat16")
        assert cache.host_kv_bytes == expected.host_kv
        assert cache.device_kv_bytes == expected.device_kv
        assert cache.index_bytes == expected.index
        assert cache.hot_bytes == expected.hot
        assert cache.sliding_bytes == expected.sliding
        rows = spec.num_full_layers * 2 * CONTEXT * 2 * spec.head_dim * 2
        assert expected.host_kv + expected.device_kv == rows
        assert expected.full_attention == rows + expected.sliding


def test_bookkeeping_counts_every_other_tensor_of_a_layer() -> None:
    spec = spec_from_config(tiny_model("llama").config, "llama")
    settings = LrqkConfig(hot=64, top_k=16, recent=8, rank=4)
    cache = LrqkCache(spec, settings, CONTEXT, torch.float32, torch.device("cpu"))
    layer = cache.layer(0)
    assert isinstance(layer, FullLayer)
    kept = [layer.hot.slot_token, layer.hot.resident, layer.hot.value_sum, layer._value_sum]
    grams = layer.grams
    kept += [grams.query_gram, grams.key_gram, grams.key_sum, grams.shift]
    factors = [accounting.factor(spec, settings).nbytes] * 2 + [accounting.head_vector(spec).nbytes]
    per_layer = sum(tensor.nbytes for tensor in kept) + sum(factors)
    assert accounting.kv_bytes(spec, settings, CONTEXT, "float32").bookkeeping == 2 * per_layer
