"""Falcon-H1, Granite 4 hybrids and Nemotron-H: Mamba 2 beside attention or in other layers."""

from __future__ import annotations

from functools import partial
from typing import Any

from lrqk_cli.models.gguf_families.base import (
    Arrangement,
    Change,
    GgufFamily,
    GgufLayout,
    Numbers,
    Settings,
    common_settings,
    log_of_negative,
    rope,
    with_channel,
)
from lrqk_cli.models.gguf_reader import HeaderValues

_STATES = {"A_log": "ssm_a", "D": "ssm_d", "dt_bias": "ssm_dt.bias"}
_NAMES = {f"mamba.{name}": tensor for name, tensor in _STATES.items()}


def _flat(numbers: Numbers) -> Numbers:
    return numbers.reshape(-1)


_CHANGES: dict[str, Change] = {
    "ssm_a": log_of_negative,
    "ssm_d": _flat,
    "ssm_norm.weight": _flat,
    "ssm_conv1d.weight": with_channel,
}
# Names of Nemotron-H's only module of a layer; what it holds depends on the kind of the layer.
_MIXER = {
    **_STATES,
    "conv1d.weight": "ssm_conv1d.weight",
    "conv1d.bias": "ssm_conv1d.bias",
    "in_proj.weight": "ssm_in.weight",
    "norm.weight": "ssm_norm.weight",
    "out_proj.weight": "ssm_out.weight",
    "q_proj.weight": "attn_q.weight",
    "k_proj.weight": "attn_k.weight",
    "v_proj.weight": "attn_v.weight",
    "o_proj.weight": "attn_output.weight",
    "up_proj.weight": "ffn_up.weight",
    "down_proj.weight": "ffn_down.weight",
    "gate.weight": "ffn_gate_inp.weight",
    "gate.e_score_correction_bias": "exp_probs_b.bias",
    "experts.up_proj": "ffn_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
    "shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "shared_experts.down_proj.weight": "ffn_down_shexp.weight",
    "fc1_latent_proj.weight": "ffn_latent_down.weight",
    "fc2_latent_proj.weight": "ffn_latent_up.weight",
}


def _mamba_settings(header: HeaderValues) -> Settings:
    heads = header["ssm.time_step_rank"]
    return {
        "mamba_n_heads": heads,
        "mamba_d_head": header["ssm.inner_size"] // heads,
        "mamba_n_groups": header["ssm.group_count"],
        "mamba_d_state": header["ssm.state_size"],
        "mamba_d_conv": header["ssm.conv_kernel"],
        "mamba_conv_bias": header.has("ssm_conv1d.bias"),
    }


def _falcon_settings(header: HeaderValues) -> Settings:
    # The multipliers of the published configuration are part of the file's weights.
    return (
        common_settings(header)
        | _mamba_settings(header)
        | {
            "model_type": "falcon_h1",
            "num_key_value_heads": header["attention.head_count_kv"],
            "head_dim": header["attention.key_length"],
            "intermediate_size": header["feed_forward_length"],
            "rms_norm_eps": header["attention.layer_norm_rms_epsilon"],
            "mamba_d_ssm": header["ssm.inner_size"],
            "mamba_rms_norm": header.has("ssm_norm.weight"),
            # llama.cpp has no other order, and files do not say it.
            "mamba_norm_before_gate": False,
            "rope_parameters": rope(header),
        }
    )


def _falcon_layout(_: Any, held: frozenset[str]) -> GgufLayout:
    norm = "ffn_norm" if "ffn_norm" in held else "ffn_norm.weight"
    return GgufLayout(_NAMES | {"pre_ff_layernorm.weight": norm}, _CHANGES)


def _granite_settings(header: HeaderValues) -> Settings:
    settings = common_settings(header)
    kv_heads = header.listed("attention.head_count_kv", settings["num_hidden_layers"])
    inner = header["ssm.inner_size"]
    if inner % settings["hidden_size"]:
        raise ValueError("its inner size of Mamba is no multiple of the hidden size")
    # Layers without KV heads do not attend.
    return (
        settings
        | _mamba_settings(header)
        | {
            "model_type": "granitemoehybrid",
            "layer_types": ["attention" if count else "mamba" for count in kv_heads],
            "num_key_value_heads": max(kv_heads),
            "intermediate_size": header["feed_forward_length"],
            "shared_intermediate_size": header.get("expert_shared_feed_forward_length")
            or header["feed_forward_length"],
            "num_local_experts": header.get("expert_count", 0),
            "num_experts_per_tok": header.get("expert_used_count", 0),
            "rms_norm_eps": header["attention.layer_norm_rms_epsilon"],
            "attention_multiplier": header["attention.scale"],
            "embedding_multiplier": header["embedding_scale"],
            "residual_multiplier": header["residual_scale"],
            "logits_scaling": header["logit_scale"],
            "mamba_expand": inner // settings["hidden_size"],
            "position_embedding_type": "rope" if header.get("rope.scaling.finetuned") else "nope",
            "rope_parameters": rope(header),
        }
    )


def _granite_layout(config: Any, held: frozenset[str]) -> GgufLayout:
    end = "_shexp.weight" if "ffn_gate_shexp.weight" in held else ".weight"
    names = {
        "block_sparse_moe.router.weight": "ffn_gate_inp.weight",
        "shared_mlp.input_linear.parts.0.weight": f"ffn_gate{end}",
        "shared_mlp.input_linear.parts.1.weight": f"ffn_up{end}",
        "shared_mlp.output_linear.weight": f"ffn_down{end}",
    }
    changes = {
        "attn_q.weight": partial(_halves, config.num_attention_heads),
        "attn_k.weight": partial(_halves, config.num_key_value_heads),
    }
    gate_up = Arrangement((config.shared_intermediate_size,) * 2)
    return GgufLayout(_NAMES | names, _CHANGES | changes, {"shared_mlp.input_linear": gate_up})


def _halves(heads: int, rows: Numbers) -> Numbers:
    """Undo the interleaving of the two halves of each head's rows."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _nemotron_settings(header: HeaderValues) -> Settings:
    settings = common_settings(header)
    layers = settings["num_hidden_layers"]
    inner, heads = header["ssm.inner_size"], header["ssm.time_step_rank"]
    kinds = [_kind(header, layer) for layer in range(layers)]
    settings |= {
        "model_type": "nemotron_h",
        "layers_block_type": kinds,
        "num_key_value_heads": max(header.listed("attention.head_count_kv", layers)),
        "head_dim": header["attention.key_length"],
        "layer_norm_epsilon": header.get("attention.layer_norm_epsilon")
        or header["attention.layer_norm_rms_epsilon"],
        "mamba_num_heads": heads,
        "mamba_head_dim": inner // heads,
        "n_groups": header["ssm.group_count"],
        "ssm_state_size": header["ssm.state_size"],
        "conv_kernel": header["ssm.conv_kernel"],
        "use_conv_bias": header.has("ssm_conv1d.bias"),
    }
    if "mlp" in kinds:
        # Of mixtures the header says the size of experts alone.
        settings["intermediate_size"] = header.shapes[f"blk.{kinds.index('mlp')}.ffn_up.weight"][0]
    if "moe" in kinds:
        settings |= {
            "n_routed_experts": header["expert_count"],
            "num_experts_per_tok": header["expert_used_count"],
            "n_shared_experts": header["expert_shared_count"],
            "moe_intermediate_size": header["expert_feed_forward_length"],
            "moe_shared_expert_intermediate_size": header["expert_shared_feed_forward_length"],
            "moe_latent_size": header.get("moe_latent_size"),
            "norm_topk_prob": header["expert_weights_norm"],
            "routed_scaling_factor": header["expert_weights_scale"],
            "n_group": header.get("expert_group_count", 1),
            "topk_group": header.get("expert_group_used_count", 1),
        }
    return settings


def _kind(header: HeaderValues, layer: int) -> str:
    """Return the kind of a layer, which its tensors show."""
    marks = {"ssm_in": "mamba", "attn_q": "attention", "ffn_gate_inp": "moe", "ffn_up": "mlp"}
    kinds = (kind for mark, kind in marks.items() if f"blk.{layer}.{mark}.weight" in header.shapes)
    if (found := next(kinds, None)) is None:
        raise ValueError(f"its layer {layer} is of no known kind")
    return found


def _nemotron_layout(_: Any, __: frozenset[str]) -> GgufLayout:
    return GgufLayout({f"mixer.{name}": tensor for name, tensor in _MIXER.items()}, _CHANGES)


FALCON_H1 = GgufFamily(_falcon_settings, _falcon_layout)
GRANITE_HYBRID = GgufFamily(_granite_settings, _granite_layout)
NEMOTRON_H = GgufFamily(_nemotron_settings, _nemotron_layout)
