"""Gemma 4: sliding and full layers with heads of their own, embeddings for each layer, K that may be V."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrqk_cli.models.gguf_families.base import GgufFamily, GgufLayout, Settings, common_settings
from lrqk_cli.models.gguf_reader import HeaderValues

_NAMES = {"router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale"}
_KEYS_AND_VALUES = frozenset({"attn_k.weight", "attn_v.weight", "attn_k_norm.weight"})
# Files divide the frequencies of dimensions that are not rotated by 1e30.
_UNROTATED = 1e20


def _settings(header: HeaderValues) -> Settings:
    settings = common_settings(header)
    layers = settings["num_hidden_layers"]
    slides = header.listed("attention.sliding_window_pattern", layers)
    kv_heads = header.listed("attention.head_count_kv", layers)
    inner = header.listed("feed_forward_length", layers)
    if all(slides) or not any(slides):
        raise ValueError("its header lists sliding or full layers only")
    width, full = header["attention.key_length_swa"], header["attention.key_length"]
    per_layer = header.get("embedding_length_per_layer_input", 0)
    settings |= {
        "model_type": "gemma4_text",
        "layer_types": ["sliding_attention" if flag else "full_attention" for flag in slides],
        "num_key_value_heads": kv_heads[slides.index(True)],
        "num_global_key_value_heads": kv_heads[slides.index(False)],
        "head_dim": width,
        "global_head_dim": full,
        # A full layer without a matrix for V uses K.
        "attention_k_eq_v": f"blk.{slides.index(False)}.attn_v.weight" not in header.shapes,
        "sliding_window": header["attention.sliding_window"],
        "num_kv_shared_layers": header.get("attention.shared_kv_layers", 0),
        "intermediate_size": inner[0],
        "use_double_wide_mlp": inner[-1] == 2 * inner[0],
        "hidden_size_per_layer_input": per_layer,
        "rms_norm_eps": header["attention.layer_norm_rms_epsilon"],
        "final_logit_softcapping": header.get("final_logit_softcapping"),
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": header["rope.freq_base"],
                "partial_rotary_factor": _share_rotated(header),
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": header["rope.freq_base_swa"]},
        },
    }
    if per_layer:
        settings["vocab_size_per_layer_input"] = settings["vocab_size"]
    if experts := header.get("expert_count", 0):
        settings |= {
            "enable_moe_block": True,
            "num_experts": experts,
            "top_k_experts": header["expert_used_count"],
            "moe_intermediate_size": header["expert_feed_forward_length"],
        }
    return settings


def _share_rotated(header: HeaderValues) -> float:
    """Return the share of a full layer's head that is rotated; the others have a frequency of nearly zero."""
    if "rope_freqs.weight" not in header.shapes:
        return 1.0
    return float(np.mean(header.numbers("rope_freqs.weight") < _UNROTATED))


def _layout(config: Any, _: frozenset[str]) -> GgufLayout:
    # Checkpoints have keys and values of layers that share those of another, and converters keep them.
    return GgufLayout(_NAMES, spare=_KEYS_AND_VALUES if config.num_kv_shared_layers else frozenset())


GEMMA4 = GgufFamily(_settings, _layout)
