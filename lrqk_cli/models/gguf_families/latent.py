"""DeepSeek-V2 and V3, and models of their form such as GLM-4.7 Flash: multi-head latent attention."""

from __future__ import annotations

from typing import Any

from lrqk_cli.models.gguf_families.base import (
    GgufFamily,
    GgufLayout,
    Settings,
    common_settings,
    rope,
)
from lrqk_cli.models.gguf_reader import HeaderValues

_ROUTER_BIAS = "exp_probs_b.bias"
# llama.cpp's number of this way to choose experts; older files do not state it.
_SIGMOID = 2


def _settings(header: HeaderValues) -> Settings:
    settings = common_settings(header)
    heads, rotated = settings["num_attention_heads"], header["rope.dimension_count"]
    is_sigmoid = header.get("expert_gating_func") == _SIGMOID or header.has(_ROUTER_BIAS)
    normed = bool(header.get("expert_weights_norm", False))
    if normed and not is_sigmoid:
        raise ValueError("experts chosen by softmax with weights that sum to one are not read")
    groups = header.get("expert_group_count", 1)
    if not is_sigmoid:
        settings["topk_method"] = "group_limited_greedy" if groups > 1 else "greedy"
    return settings | {
        # The two differ in how experts are chosen.
        "model_type": "deepseek_v3" if is_sigmoid else "deepseek_v2",
        # The header counts the compressed row as the only KV head, and its width as the head's.
        "num_key_value_heads": heads,
        "q_lora_rank": header.get("attention.q_lora_rank"),
        "kv_lora_rank": header["attention.kv_lora_rank"],
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": _head_size(header, "key") - rotated,
        "v_head_dim": _head_size(header, "value"),
        "intermediate_size": header["feed_forward_length"],
        "moe_intermediate_size": header["expert_feed_forward_length"],
        "n_routed_experts": header["expert_count"],
        "num_experts_per_tok": header["expert_used_count"],
        "n_shared_experts": header["expert_shared_count"],
        "routed_scaling_factor": header.get("expert_weights_scale", 1.0),
        "norm_topk_prob": normed,
        "n_group": groups,
        "topk_group": header.get("expert_group_used_count", 1),
        "first_k_dense_replace": _dense_layers(header, settings["num_hidden_layers"]),
        "rms_norm_eps": header["attention.layer_norm_rms_epsilon"],
        "rope_parameters": _rope(header),
    }


def _head_size(header: HeaderValues, kind: str) -> int:
    """Return the size of a head's keys or values.

    Newer files state it beside that of the compressed row, which attention with absorbed projections reads.
    """
    size: int = header.get(f"attention.{kind}_length_mla") or header[f"attention.{kind}_length"]
    return size


def _dense_layers(header: HeaderValues, layers: int) -> int:
    """Return the number of layers before the first with experts."""
    with_experts = (n for n in range(layers) if f"blk.{n}.ffn_gate_inp.weight" in header.shapes)
    return next(with_experts, layers)


def _rope(header: HeaderValues) -> Settings:
    found = rope(header)
    if (factor := header.get("rope.scaling.yarn_log_multiplier")) is not None:
        # The file has a tenth of the factor for all dimensions, and leaves out the other, which is the same.
        found["mscale"] = found["mscale_all_dim"] = 10 * factor
    return found


def _layout(config: Any, held: frozenset[str]) -> GgufLayout:
    names = {"mlp.gate.e_score_correction_bias": _ROUTER_BIAS}
    parts = {"attn_k_b.weight": config.qk_nope_head_dim, "attn_v_b.weight": config.v_head_dim}
    if "attn_kv_b.weight" in held:  # an older file, which has the model's own matrix
        return GgufLayout(names, spare=frozenset(parts))
    return GgufLayout(
        names,
        {"attn_k_b.weight": lambda numbers: numbers.swapaxes(1, 2)},
        parts={"self_attn.kv_b_proj.weight": parts},
    )


DEEPSEEK2 = GgufFamily(_settings, _layout)
