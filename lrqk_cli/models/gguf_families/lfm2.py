"""LFM2 and its mixtures: short convolutions in most layers, full attention in the others."""

from __future__ import annotations

from typing import Any

from lrqk_cli.models.gguf_families.base import (
    GgufFamily,
    GgufLayout,
    Settings,
    common_settings,
    mixture_settings,
    rope,
    with_channel,
)
from lrqk_cli.models.gguf_reader import HeaderValues

_LAYOUT = GgufLayout(
    {"feed_forward.expert_bias": "exp_probs_b.bias"}, {"shortconv.conv.weight": with_channel}
)


def _common(header: HeaderValues) -> Settings:
    settings = common_settings(header)
    # Layers without KV heads do not attend.
    kv_heads = header.listed("attention.head_count_kv", settings["num_hidden_layers"])
    return settings | {
        "layer_types": ["full_attention" if heads else "conv" for heads in kv_heads],
        "num_key_value_heads": max(kv_heads),
        "intermediate_size": header["feed_forward_length"],
        "norm_eps": header["attention.layer_norm_rms_epsilon"],
        "conv_L_cache": header["shortconv.l_cache"],
        "conv_bias": header.has("shortconv.conv.bias"),
        "rope_parameters": rope(header),
    }


def _settings(header: HeaderValues) -> Settings:
    # The inner size of a file is the final one, which transformers would change again.
    return _common(header) | {"model_type": "lfm2", "block_auto_adjust_ff_dim": False}


def _mixture_settings(header: HeaderValues) -> Settings:
    return (
        _common(header)
        | mixture_settings(header)
        | {
            "model_type": "lfm2_moe",
            "num_dense_layers": header["leading_dense_block_count"],
            "use_expert_bias": header.has("exp_probs_b.bias"),
        }
    )


def _layout(_: Any, __: frozenset[str]) -> GgufLayout:
    return _LAYOUT


LFM2 = GgufFamily(_settings, _layout)
LFM2_MIXTURE = GgufFamily(_mixture_settings, _layout)
