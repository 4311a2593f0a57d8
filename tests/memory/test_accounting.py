"""Estimates against what is allocated, to the byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from allocated import device_kv_bytes, sliding_bytes
from tiny import FAMILIES, tiny_model

from lrqk_cli.attention import layer_list
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.position import Position
from lrqk_cli.config import KvDtype, LrqkConfig, paper_settings
from lrqk_cli.kernels.buffers import Drafts, RowScales
from lrqk_cli.memory import accounting
from lrqk_cli.models.support import spec_from_config

CONTEXT = 300
METHODS = [
    {},
    {"solver": "als"},
    {"grouping": "head", "index_bits": 16, "tail": "none"},
    {"solver": "als", "grouping": "head", "hot_policy": "exact"},
    {"grouping": "head", "hot_policy": "refetch", "hot": 8},
    {"kv_dtype": "int8"},
]


@pytest.mark.parametrize("mode", ["lrqk", "dense", "offload"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kv_bytes_equal_the_allocated_ones(family: str, mode: str) -> None:
    spec = spec_from_config(tiny_model(family).config, family)
    in_8_bits: tuple[KvDtype, ...] = () if mode == "dense" or spec.is_latent else ("int8", "fp8")
    for settings in (
        LrqkConfig(attention=mode, hot=64, top_k=16, recent=8, rank=4),
        LrqkConfig(attention=mode, hot=4096, rank=200, index_bits=16),
        replace(paper_settings(LrqkConfig()), attention=mode),
        LrqkConfig(mode, top_k=40, hot=4, recent=8, grouping="head", hot_policy="exact"),
        *(LrqkConfig(mode, hot=64, top_k=16, recent=8, kv_dtype=kv_dtype) for kv_dtype in in_8_bits),
    ):
        cache = LrqkCache(spec, settings, CONTEXT, torch.bfloat16, torch.device("cpu"))
        expected = accounting.kv_bytes(spec, settings, CONTEXT, "bfloat16")
        assert layer_list.host_kv_bytes(cache.attention_layers) == expected.host_kv
        assert device_kv_bytes(cache) == expected.device_kv
        assert layer_list.index_bytes(cache.attention_layers) == expected.index
        assert layer_list.hot_bytes(cache.attention_layers) == expected.hot
        assert sliding_bytes(cache) == expected.sliding
        vectors = spec.num_row_layers * spec.num_kv_heads * CONTEXT
        rows = vectors * (1 if spec.is_latent else 2) * spec.head_dim * 2
        stored = rows if settings.kv_dtype == "bf16" else rows // 2 + vectors * 4
        assert expected.host_kv + expected.device_kv == stored
        assert expected.full_attention == rows + expected.sliding


def tensors_of(owner: object) -> list[torch.Tensor]:
    """Every tensor that an object holds, directly or through an object of ours."""
    found = []
    for value in vars(owner).values():
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, Position):
            continue  # the cache's, with a number on the device that ``scratch.decode_scratch`` counts
        elif isinstance(value, Drafts):
            found.append(value.rows)
        elif isinstance(value, RowScales):
            found.append(value.channels)
        elif type(value).__module__.startswith("lrqk_cli.attention"):
            found += tensors_of(value)
    return found


@pytest.mark.parametrize("changes", METHODS)
def test_every_tensor_of_a_layer_is_counted(changes: dict[str, object]) -> None:
    spec = spec_from_config(tiny_model("llama").config, "llama")
    settings = LrqkConfig(**{"hot": 64, "top_k": 16, "recent": 8, "rank": 4, **changes})
    layer = LrqkCache(spec, settings, CONTEXT, torch.float32, torch.device("cpu")).attention_layers[0]
    storages = [tensor.untyped_storage() for tensor in tensors_of(layer)]
    allocated = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    expected = accounting.kv_bytes(spec, settings, CONTEXT, "float32")
    assert spec.num_layers * allocated == expected.host_kv + expected.device
