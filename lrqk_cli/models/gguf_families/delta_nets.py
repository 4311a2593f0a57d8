"""Qwen3-Next and Qwen3.5: gated delta nets in most layers, full attention in the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrqk_cli.models.gguf_families.base import (
    Arrangement,
    Change,
    GgufFamily,
    GgufLayout,
    Numbers,
    Settings,
    as_places,
    common_settings,
    in_order,
    less_one,
    log_of_negative,
    mixture_settings,
    rope,
    with_channel,
)
from lrqk_cli.models.gguf_reader import HeaderValues

_NAMES = {"linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias"}
_NORMS = ("attn_norm", "post_attention_norm", "attn_q_norm", "attn_k_norm", "output_norm")
# All but the norms of the delta nets' outputs count from one.
_CHANGES: dict[str, Change] = {
    **{f"{name}.weight": less_one for name in _NORMS},
    "ssm_a": log_of_negative,
    "ssm_conv1d.weight": with_channel,
    # Some files have it as one row without its dimension.
    "ffn_gate_inp_shexp.weight": lambda numbers: numbers.reshape(1, -1),
}


def _settings(header: HeaderValues) -> Settings:
    settings = common_settings(header)
    layers, head_dim = settings["num_hidden_layers"], header["attention.key_length"]
    value_heads = header["ssm.time_step_rank"]
    if header.get("attention.recurrent_layers") is not None:
        recurrent = header.listed("attention.recurrent_layers", layers)
    else:
        interval = header["full_attention_interval"]
        recurrent = [(layer + 1) % interval != 0 for layer in range(layers)]
    settings |= {
        "layer_types": ["linear_attention" if flag else "full_attention" for flag in recurrent],
        "num_key_value_heads": header["attention.head_count_kv"],
        "head_dim": head_dim,
        "rms_norm_eps": header["attention.layer_norm_rms_epsilon"],
        "linear_conv_kernel_dim": header["ssm.conv_kernel"],
        "linear_key_head_dim": header["ssm.state_size"],
        "linear_num_key_heads": header["ssm.group_count"],
        "linear_num_value_heads": value_heads,
        "linear_value_head_dim": header["ssm.inner_size"] // value_heads,
        "rope_parameters": rope(header, partial_rotary_factor=header["rope.dimension_count"] / head_dim),
    }
    if (inner := header.get("feed_forward_length")) is not None:
        settings["intermediate_size"] = inner
    return settings


def _qwen35_settings(header: HeaderValues) -> Settings:
    # A token of text has one position on all axes, so it does not matter how a head is divided among them.
    return {**_settings(header), "model_type": "qwen3_5_text"}


def _mixture_settings(header: HeaderValues) -> Settings:
    return mixture_settings(header) | {
        "shared_expert_intermediate_size": header["expert_shared_feed_forward_length"],
    }


def _qwen35_mixture_settings(header: HeaderValues) -> Settings:
    return {**_qwen35_settings(header), **_mixture_settings(header), "model_type": "qwen3_5_moe_text"}


def _qwen3_next_settings(header: HeaderValues) -> Settings:
    return {**_settings(header), **_mixture_settings(header), "model_type": "qwen3_next"}


def _qwen35_layout(config: Any, _: frozenset[str]) -> GgufLayout:
    """Value heads go by their key head in the model; in the file by their number within it, to be tiled."""
    key_heads, value_heads = config.linear_num_key_heads, config.linear_num_value_heads
    heads = np.arange(value_heads).reshape(-1, key_heads).T.reshape(-1)
    values = _rows_of(heads, config.linear_value_head_dim)
    query_key_rows = 2 * key_heads * config.linear_key_head_dim
    channels = np.concatenate([np.arange(query_key_rows), query_key_rows + values])
    of_heads = in_order(heads)
    changes: dict[str, Change] = {
        **_CHANGES,
        "attn_qkv.weight": in_order(channels),
        "attn_gate.weight": in_order(values),
        "ssm_alpha.weight": of_heads,
        "ssm_beta.weight": of_heads,
        "ssm_dt.bias": of_heads,
        "ssm_a": lambda numbers: of_heads(log_of_negative(numbers)),
        "ssm_conv1d.weight": lambda numbers: with_channel(numbers[channels]),
    }
    # The input of this matrix has the value heads, and a head is no whole block in most types.
    output = Arrangement(inputs=as_places(np.argsort(values)))
    arrangements = {} if key_heads == value_heads else {"linear_attn.out_proj": output}
    names = _NAMES | ({"linear_attn.out_proj.parts.0.weight": "ssm_out.weight"} if arrangements else {})
    return GgufLayout(names, changes, arrangements)


def _qwen3_next_layout(config: Any, held: frozenset[str]) -> GgufLayout:
    """The model has queries, keys, values and gates by key head in one matrix; the file has two matrices.

    Files of the first converters have the model's own matrix.
    """
    if "attn_gate.weight" not in held:
        return GgufLayout(_NAMES, _CHANGES)
    key_heads, key_dim = config.linear_num_key_heads, config.linear_key_head_dim
    keys, values = key_heads * key_dim, config.linear_num_value_heads * config.linear_value_head_dim
    places = np.split(np.arange(2 * keys + 2 * values), [keys, 2 * keys, 2 * keys + values])
    outputs = np.concatenate([part.reshape(key_heads, -1) for part in places], 1).reshape(-1)
    projection = "linear_attn.in_proj_qkvz"
    parts = ("attn_qkv.weight", "attn_gate.weight")
    names = {f"{projection}.parts.{number}.weight": part for number, part in enumerate(parts)}
    arrangement = Arrangement((2 * keys + values, values), outputs=as_places(outputs))
    return GgufLayout(_NAMES | names, _CHANGES, {projection: arrangement})


def _rows_of(heads: Numbers, width: int) -> Numbers:
    """Return the rows of heads, ``width`` each."""
    return (heads[:, None] * width + np.arange(width)).reshape(-1)


QWEN35 = GgufFamily(_qwen35_settings, _qwen35_layout)
QWEN35_MIXTURE = GgufFamily(_qwen35_mixture_settings, _qwen35_layout)
QWEN3_NEXT = GgufFamily(_qwen3_next_settings, _qwen3_next_layout)
