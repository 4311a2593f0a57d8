"""Tiny random models of every supported family, in float32 on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel

from lrqk_cli.models.classes import causal_model_class

VOCABULARY = 97
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ALTERNATING = ["sliding_attention", "full_attention"]
_CONV = ["conv", "full_attention"]
_MAMBA = ["mamba", "attention"]
_MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DELTA_NET = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_GEMMA4 = {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 24,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
}
_MISTRAL4_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "llama_4_scaling_beta": 0.1,
}
_SHARED_EXPERT = {"shared_expert_intermediate_size": 32}
_GPT_OSS_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# Family: config class and what it needs beside the common shape.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral-sliding": ("MistralConfig", {"sliding_window": 24}),
    "phi3": ("Phi3Config", {}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    ),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16, "sliding_window": 24, "layer_types": _ALTERNATING}),
    "gpt-oss": (
        "GptOssConfig",
        {
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 24,
            "rope_parameters": _GPT_OSS_ROPE,
        },
    ),
    "qwen3-moe": ("Qwen3MoeConfig", {"head_dim": 16, **_MIXTURE}),
    "qwen3-next": ("Qwen3NextConfig", {**_DELTA_NET, **_MIXTURE, **_SHARED_EXPERT}),
    "qwen3.5": ("Qwen3_5TextConfig", _DELTA_NET),
    "qwen3.5-moe": ("Qwen3_5MoeTextConfig", {**_DELTA_NET, **_MIXTURE, **_SHARED_EXPERT}),
    "lfm2": ("Lfm2Config", {"layer_types": _CONV}),
    "lfm2-moe": ("Lfm2MoeConfig", {"layer_types": _CONV, **_MIXTURE, "num_dense_layers": 1}),
    "falcon-h1": (
        "FalconH1Config",
        {
            "head_dim": 8,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 16,
        },
    ),
    "granite-hybrid": (
        "GraniteMoeHybridConfig",
        {
            "layer_types": _MAMBA,
            "mamba_n_heads": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 32,
        },
    ),
    "gemma4": (
        "Gemma4TextConfig",
        {**_GEMMA4, "layer_types": _ALTERNATING, "num_global_key_value_heads": 1, "attention_k_eq_v": True},
    ),
    "gemma4-shared": (
        "Gemma4TextConfig",
        {**_GEMMA4, "num_hidden_layers": 6, "layer_types": _ALTERNATING * 3, "num_kv_shared_layers": 2},
    ),
    "deepseek-v2": ("DeepseekV2Config", {**_LATENT, "first_k_dense_replace": 1}),
    "deepseek-v3": ("DeepseekV3Config", {**_LATENT, "first_k_dense_replace": 1}),
    "glm4-moe-lite": ("Glm4MoeLiteConfig", _LATENT),
    "mistral4": ("Mistral4Config", {**_LATENT, "rope_parameters": _MISTRAL4_ROPE}),
    "nemotron-h": (
        "NemotronHConfig",
        {
            "layers_block_type": ["mamba", "attention", "moe", "mlp"],
            "num_hidden_layers": 4,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 2,
            "chunk_size": 16,
            "head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
        },
    ),
}

# Families whose parameters are counted without building the model.
KNOWN = tuple(FAMILIES)[: list(FAMILIES).index("qwen3-next")]


def tiny_model(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a random model whose attention is far from uniform."""
    name, extra = FAMILIES[family]
    config = getattr(transformers, name)(**{**_SHAPE, **extra, **changes})
    torch.manual_seed(seed)
    model = causal_model_class(config)._from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4.0)
    return model


def save_tiny_chat_model(folder: Path) -> Path:
    """Save a random Llama with a chat template; its tokens are bytes, its context is 4,096."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*_SPECIAL_TOKENS, *letters))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_SPECIAL_TOKENS[0],
        additional_special_tokens=list(_SPECIAL_TOKENS[1:]),
        chat_template=_CHAT_TEMPLATE,
    ).save_pretrained(folder)
    model = tiny_model(
        "llama",
        vocab_size=len(vocabulary),
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    model.save_pretrained(folder)
    return folder


def random_tokens(count: int, seed: int = 0) -> torch.Tensor:
    """Return token ids ``[count]``, special ones left out."""
    return torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def full_attention_logits(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits ``[n, vocab]`` by transformers' own eager attention, without a cache."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return model(tokens.unsqueeze(0), use_cache=False).logits[0]
    finally:
        model.set_attn_implementation(before)
