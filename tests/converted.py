"""Tiny random models of this year's families as GGUF files, changed as llama.cpp's converter does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gguf import GGMLQuantizationType, get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES
from gguf.quants import dequantize, quantize
from gguf_files import PLAIN_ADDED, VOCABULARY, write_gguf
from tiny import tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.model_spec import LAYER_KINDS

Values = dict[str, Any]
Tensors = dict[str, Tensor]

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_SUFFIXES = (".weight", ".bias")
_TOKENS = len(VOCABULARY) + len(PLAIN_ADDED)
_WIDTHS: Values = {"vocab_size": _TOKENS, "hidden_size": 64, "intermediate_size": 96}


class Conversion(NamedTuple):
    """How a family is converted.

    Attributes:
        architecture: llama.cpp's name.
        model: the name in ``tiny.FAMILIES``.
        sizes: changes of that configuration.
        values: of the header, beside those that most families have.
        change: the tensors of a layer's parameter, by the file's names; None if only its name changes.
        counts_from_one: norms do so in the file, but not in the model; those of delta nets do so in both.
        positions: tensors of the file that say how positions turn.
    """

    architecture: str
    model: str
    sizes: Values
    values: Callable[[Any], Values]
    change: Callable[[Any, str, Tensor], Tensors | None]
    counts_from_one: bool = False
    positions: Tensors | None = None


def converted(
    conversion: str | Conversion, path: Path, kind: str | None = None, **others: str | None
) -> tuple[PreTrainedModel, Path]:
    """Return a model and a file that has it.

    Args:
        conversion: the name of one of ``CONVERSIONS``, or another one.
        kind, others: see ``write_gguf``; the model's matrices are rounded to ``kind`` first.
    """
    if isinstance(conversion, str):
        conversion = CONVERSIONS[conversion]
    model = tiny_model(conversion.model, **{**_WIDTHS, **conversion.sizes})
    generator = torch.Generator().manual_seed(1)
    for parameter, tensor in model.state_dict().items():
        # Norms of one and biases of zero would hide a wrong change.
        if tensor.dim() < 2 or "norm" in parameter:
            tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
        elif kind is not None and tensor.shape[-1] % 32 == 0:
            blocks = quantize(tensor.numpy(), GGMLQuantizationType[kind])
            tensor.copy_(torch.from_numpy(dequantize(blocks, GGMLQuantizationType[kind])))
    values = _common_values(model.config) | conversion.values(model.config)
    tensors = _tensors(model, conversion)
    return model, write_gguf(path, conversion.architecture, values, tensors, kind, **others)


def _common_values(config: Any) -> Values:
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None) or 1e-5,
        "rope.freq_base": 10000.0,
        "expert_used_count": getattr(config, "num_experts_per_tok", None),
        "expert_feed_forward_length": getattr(config, "moe_intermediate_size", None),
    }
    return {key: value for key, value in values.items() if value is not None}


def _tensors(model: PreTrainedModel, conversion: Conversion) -> Iterator[tuple[str, Tensor]]:
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == conversion.architecture)
    names = get_tensor_name_map(arch, model.config.num_hidden_layers)
    yield from (conversion.positions or {}).items()
    for name, tensor in model.state_dict().items():
        layer = _LAYER.fullmatch(name)
        changed = None
        if layer is not None:
            changed = conversion.change(model.config, layer[2], tensor) or _experts(layer[2], tensor)
        if layer is not None and changed is not None:
            yield from ((f"blk.{layer[1]}.{part}", content) for part, content in changed.items())
        elif name != "lm_head.weight" or not model.config.tie_word_embeddings:
            published = name.replace("model.layers", "backbone.layers")
            found = names.get_name(published, _SUFFIXES) or names.get_name(name, _SUFFIXES)
            assert found is not None, name
            is_shifted = conversion.counts_from_one and "norm" in name and "linear_attn" not in name
            yield found, tensor + 1 if is_shifted else tensor


def _experts(name: str, tensor: Tensor) -> Tensors | None:
    """Return the tensors of experts: gate and up are apart."""
    if name.endswith("experts.gate_up_proj"):
        gate, up = tensor.chunk(2, 1)
        return {"ffn_gate_exps.weight": gate, "ffn_up_exps.weight": up}
    part = re.fullmatch(r".*experts\.(up|down)_proj", name)
    return None if part is None else {f"ffn_{part[1]}_exps.weight": tensor}


def _recurrent(name: str, tensor: Tensor) -> Tensors | None:
    """Return the tensors of what Mamba and the delta nets share."""
    if name.endswith(".A_log"):
        return {"ssm_a": -tensor.exp()}
    if name.endswith(".dt_bias"):
        return {"ssm_dt.bias": tensor}
    return {"ssm_conv1d.weight": tensor.squeeze(1)} if name.endswith("conv1d.weight") else None


def _delta_net_values(config: Any) -> Values:
    value_heads = config.linear_num_value_heads
    values = {
        "block_count": config.num_hidden_layers + 1,
        "nextn_predict_layers": 1,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.recurrent_layers": [*(kind == "linear_attention" for kind in config.layer_types), False],
        "rope.dimension_count": config.head_dim // 4,
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": value_heads,
        "ssm.inner_size": value_heads * config.linear_value_head_dim,
    }
    if experts := getattr(config, "num_experts", None):
        values["expert_count"] = experts
        values["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    return values


def _delta_net(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    if name == "linear_attn.in_proj_qkvz.weight":
        keys, values = config.linear_key_head_dim, config.linear_value_head_dim * 2
        of_heads = tensor.unflatten(0, (config.linear_num_key_heads, -1))
        parts = [part.flatten(0, 1) for part in of_heads.split([keys, keys, values, values], 1)]
        return {"attn_qkv.weight": torch.cat(parts[:3]), "attn_gate.weight": parts[3]}
    return _recurrent(name, tensor)


def _tiled(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    """Return the tensors with value heads ordered by their number within a key head."""
    heads = config.linear_num_key_heads
    keys = 2 * heads * config.linear_key_head_dim

    def reordered(rows: Tensor) -> Tensor:
        of_heads = rows.unflatten(0, (heads, config.linear_num_value_heads // heads, -1))
        return of_heads.transpose(0, 1).flatten(0, 2)

    if name == "linear_attn.out_proj.weight":
        return {"ssm_out.weight": reordered(tensor.T).T}
    if name in ("linear_attn.in_proj_qkv.weight", "linear_attn.conv1d.weight"):
        tensor = torch.cat([tensor[:keys], reordered(tensor[keys:])])
    elif name.startswith("linear_attn.") and "norm" not in name:
        tensor = reordered(tensor)
    names = {"qkv": "attn_qkv", "z": "attn_gate", "a": "ssm_alpha", "b": "ssm_beta"}
    if found := re.fullmatch(r"linear_attn\.in_proj_(\w+)\.weight", name):
        return {f"{names[found[1]]}.weight": tensor}
    return _recurrent(name, tensor)


def _gemma4_values(config: Any) -> Values:
    layers = range(config.num_hidden_layers)
    slides = [kind == "sliding_attention" for kind in config.layer_types]
    first_shared = config.num_hidden_layers - config.num_kv_shared_layers
    wide = 2 if config.use_double_wide_mlp else 1
    values = {
        "attention.head_count_kv": [config.per_layer_config[layer].num_key_value_heads for layer in layers],
        "attention.key_length": config.per_layer_config[slides.index(False)].head_dim,
        "attention.key_length_swa": config.per_layer_config[slides.index(True)].head_dim,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": slides,
        "attention.shared_kv_layers": config.num_kv_shared_layers,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "feed_forward_length": [
            config.intermediate_size * (wide if layer >= first_shared else 1) for layer in layers
        ],
        "rope.freq_base": 1000000.0,
        "rope.freq_base_swa": 10000.0,
    }
    if config.final_logit_softcapping:
        values["final_logit_softcapping"] = config.final_logit_softcapping
    if config.enable_moe_block:
        values |= {"expert_count": config.num_experts, "expert_used_count": config.top_k_experts}
    return values


def _gemma4(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    names = {
        "layer_scalar": "layer_output_scale.weight",
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
    }
    return {names[name]: tensor} if name in names else None


def _gpt_oss_values(config: Any) -> Values:
    rope = config.rope_parameters
    return {
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.sliding_window": config.sliding_window,
        "expert_count": config.num_local_experts,
        "expert_feed_forward_length": config.intermediate_size,
        "rope.freq_base": rope["rope_theta"],
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope["factor"],
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
    }


def _gpt_oss(_: Any, name: str, tensor: Tensor) -> Tensors | None:
    """Return the tensors of experts: gate and up in turn, and all ``[experts, width, rows]``."""
    found = re.fullmatch(r"mlp\.experts\.(gate_up|down)_proj(_bias)?", name)
    if found is None:
        return {"attn_sinks.weight": tensor} if name == "self_attn.sinks" else None
    rows, end = (tensor, "bias") if found[2] else (tensor.mT, "weight")
    if found[1] == "down":
        return {f"ffn_down_exps.{end}": rows}
    return {f"ffn_gate_exps.{end}": rows[:, ::2], f"ffn_up_exps.{end}": rows[:, 1::2]}


def _lfm2_values(config: Any) -> Values:
    values = {
        "attention.head_count_kv": [
            config.num_key_value_heads * (kind == "full_attention") for kind in config.layer_types
        ],
        "shortconv.l_cache": config.conv_L_cache,
        "rope.freq_base": 1000000.0,
    }
    if experts := getattr(config, "num_experts", None):
        values |= {"expert_count": experts, "leading_dense_block_count": config.num_dense_layers}
    return values


def _lfm2(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    if name == "conv.conv.weight":
        return {"shortconv.conv.weight": tensor.squeeze(1)}
    return {"exp_probs_b.bias": tensor} if name.endswith("expert_bias") else None


def _latent_values(config: Any) -> Values:
    values = {
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_weights_scale": config.routed_scaling_factor,
        "rope.dimension_count": config.qk_rope_head_dim,
    }
    if (rope := config.rope_parameters)["rope_type"] == "yarn":
        values |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"],
        }
    return values


def _latent(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    if name.endswith("e_score_correction_bias"):
        return {"exp_probs_b.bias": tensor}
    if name != "self_attn.kv_b_proj.weight":
        return None
    of_heads = tensor.unflatten(0, (config.num_attention_heads, -1))
    keys, values = of_heads.split([config.qk_nope_head_dim, config.v_head_dim], 1)
    return {"attn_k_b.weight": keys.mT, "attn_v_b.weight": values}


def _mamba_values(inner: int, heads: int, groups: int, size: int) -> Values:
    return {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.time_step_rank": heads,
        "ssm.group_count": groups,
        "ssm.state_size": size,
    }


def _kv_heads(config: Any) -> list[int]:
    """Return the KV heads of each layer, none of those that do not attend."""
    return [config.num_key_value_heads * (LAYER_KINDS[kind] == "full") for kind in config.layer_types]


def _mamba(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    if name.endswith(".D"):
        return {"ssm_d": tensor[:, None]}
    if name.endswith(".A_log"):
        return {"ssm_a": -tensor.exp()[:, None]}
    if name in ("mamba.norm.weight", "mixer.norm.weight"):
        groups = config.n_groups if name.startswith("mixer") else config.mamba_n_groups
        return {"ssm_norm.weight": tensor.view(groups, -1)}
    return _recurrent(name, tensor)


def _falcon_values(config: Any) -> Values:
    sizes = config.mamba_d_ssm, config.mamba_n_heads, config.mamba_n_groups, config.mamba_d_state
    return {
        **_mamba_values(*sizes),
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
    }


def _falcon(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    return {"ffn_norm": tensor} if name == "pre_ff_layernorm.weight" else _mamba(config, name, tensor)


def _granite_values(config: Any) -> Values:
    heads = config.mamba_n_heads
    return {
        **_mamba_values(heads * config.mamba_d_head, heads, config.mamba_n_groups, config.mamba_d_state),
        "attention.head_count_kv": _kv_heads(config),
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
        "expert_count": config.num_local_experts,
        "expert_shared_feed_forward_length": config.shared_intermediate_size,
    }


def interleaved(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    """Return queries and keys with the halves of each head interleaved, as those of Llama."""
    found = re.fullmatch(r"self_attn\.([qk])_proj\.weight", name)
    if found is None:
        return None
    heads = config.num_attention_heads if found[1] == "q" else config.num_key_value_heads
    return {f"attn_{found[1]}.weight": tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)}


def _granite(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    if name == "shared_mlp.input_linear.weight":
        gate, up = tensor.chunk(2)
        return {"ffn_gate_shexp.weight": gate, "ffn_up_shexp.weight": up}
    if name == "block_sparse_moe.router.weight":
        return {"ffn_gate_inp.weight": tensor}
    return interleaved(config, name, tensor) or _mamba(config, name, tensor)


def _nemotron_values(config: Any) -> Values:
    heads = config.mamba_num_heads
    return {
        **_mamba_values(heads * config.mamba_head_dim, heads, config.n_groups, config.ssm_state_size),
        "attention.head_count_kv": _kv_heads(config),
        "attention.key_length": config.head_dim,
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        "expert_shared_feed_forward_length": config.moe_shared_expert_intermediate_size,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_weights_scale": float(config.routed_scaling_factor),
    }


def _nemotron(config: Any, name: str, tensor: Tensor) -> Tensors | None:
    bias = {"exp_probs_b.bias": tensor} if name.endswith("e_score_correction_bias") else None
    return bias or _mamba(config, name, tensor)


_DELTA_NET = {"linear_key_head_dim": 32, "linear_value_head_dim": 32, "head_dim": 32}
# A quarter of a full layer's head of 32 is rotated.
_GEMMA4_POSITIONS = {"rope_freqs.weight": torch.tensor([1.0] * 4 + [1e30] * 12)}
_GEMMA4 = {"hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": _TOKENS}
_GEMMA4_MIXTURE = {
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "num_experts": 6,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}
_LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 256,
    "mscale": 0.5,
    "mscale_all_dim": 0.5,
}
_GPT_OSS_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "truncate": False,
}
_FALCON = {
    "mamba_d_ssm": 64,
    "mamba_d_head": 16,
    "mamba_d_state": 32,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 256,
    "mamba_rms_norm": True,
    "mamba_norm_before_gate": False,
    "head_dim": 16,
}
_GRANITE = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 3.0,
    "intermediate_size": 32,
    "mamba_chunk_size": 256,
}

CONVERSIONS = {
    "qwen3.5": Conversion("qwen35", "qwen3.5", _DELTA_NET, _delta_net_values, _tiled, True),
    "qwen3.5-moe": Conversion("qwen35moe", "qwen3.5-moe", _DELTA_NET, _delta_net_values, _tiled, True),
    "qwen3-next": Conversion("qwen3next", "qwen3-next", _DELTA_NET, _delta_net_values, _delta_net, True),
    "gemma4": Conversion(
        "gemma4",
        "gemma4",
        {**_GEMMA4, "final_logit_softcapping": 30.0},
        _gemma4_values,
        _gemma4,
        positions=_GEMMA4_POSITIONS,
    ),
    "gemma4-shared": Conversion(
        "gemma4",
        "gemma4-shared",
        {**_GEMMA4, "use_double_wide_mlp": True},
        _gemma4_values,
        _gemma4,
        positions=_GEMMA4_POSITIONS,
    ),
    "gemma4-moe": Conversion(
        "gemma4", "gemma4", _GEMMA4_MIXTURE, _gemma4_values, _gemma4, positions=_GEMMA4_POSITIONS
    ),
    "gpt-oss": Conversion(
        "gpt-oss", "gpt-oss", {"head_dim": 32, "rope_parameters": _GPT_OSS_ROPE}, _gpt_oss_values, _gpt_oss
    ),
    "lfm2": Conversion("lfm2", "lfm2", {"block_auto_adjust_ff_dim": False}, _lfm2_values, _lfm2),
    "lfm2-moe": Conversion("lfm2moe", "lfm2-moe", {}, _lfm2_values, _lfm2),
    "deepseek-v2": Conversion(
        "deepseek2", "deepseek-v2", {**_LATENT, "rope_parameters": _YARN}, _latent_values, _latent
    ),
    "glm4-moe-lite": Conversion("deepseek2", "glm4-moe-lite", _LATENT, _latent_values, _latent),
    "falcon-h1": Conversion("falcon-h1", "falcon-h1", _FALCON, _falcon_values, _falcon),
    "granite-hybrid": Conversion("granitehybrid", "granite-hybrid", _GRANITE, _granite_values, _granite),
    "nemotron-h": Conversion(
        "nemotron_h_moe", "nemotron-h", {"chunk_size": 128}, _nemotron_values, _nemotron
    ),
}
