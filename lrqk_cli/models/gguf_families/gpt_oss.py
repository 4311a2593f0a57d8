"""GPT-OSS: sliding and full layers in turn, attention sinks, experts with biases."""

from __future__ import annotations

from typing import Any

from lrqk_cli.models.gguf_families.base import GgufFamily, GgufLayout, Settings, common_settings, rope
from lrqk_cli.models.gguf_reader import HeaderValues


def _settings(header: HeaderValues) -> Settings:
    positions = rope(header)
    if positions["rope_type"] == "yarn":
        positions["truncate"] = False  # as published; a file cannot say it
    return common_settings(header) | {
        "model_type": "gpt_oss",
        "num_key_value_heads": header["attention.head_count_kv"],
        "head_dim": header["attention.key_length"],
        "sliding_window": header["attention.sliding_window"],
        "intermediate_size": header["expert_feed_forward_length"],
        "num_local_experts": header["expert_count"],
        "num_experts_per_tok": header["expert_used_count"],
        "rms_norm_eps": header["attention.layer_norm_rms_epsilon"],
        "rope_parameters": positions,
    }


def _layout(_: Any, __: frozenset[str]) -> GgufLayout:
    return GgufLayout()


GPT_OSS = GgufFamily(_settings, _layout)
