"""Tiny tokenizers, models, GGUF files and wheels, made on the spot."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed import quantised
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from lrqk_cli.models.catalog import CatalogEntry, WheelPart

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Tiny.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and "
    "enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN_ADDED = ["<think>", "</think>", "<tool_call>"]


def _vocabulary() -> list[str]:
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "!!", "??"]


def _shape() -> dict[str, Any]:
    """Return what the tiny models have in common; their vocabulary is that of ``tokenizer``."""
    return {
        "vocab_size": len(_vocabulary()) + len(PLAIN_ADDED),
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with ChatML: every byte is a token, and so are two pairs of marks."""
    backend = Tokenizer(
        models.BPE({token: i for i, token in enumerate(_vocabulary())}, [("!", "!"), ("?", "?")])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.add_tokens([AddedToken(token, special=False) for token in PLAIN_ADDED])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    made.chat_template = CHATML
    return made


@pytest.fixture
def tiny_llama() -> LlamaForCausalLM:
    """Two layers whose vocabulary is that of ``tokenizer``, tied, in values that bfloat16 holds exactly."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **_shape(),
        hidden_size=32,
        intermediate_size=48,
        head_dim=8,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    return model.to(torch.bfloat16).to(torch.float32)


@pytest.fixture
def tiny_folder(tmp_path: Path, tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model's folder as ``save_pretrained`` leaves it."""
    folder = tmp_path / "tiny"
    tiny_llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_gguf(tmp_path: Path, tiny_llama: LlamaForCausalLM) -> Path:
    """``tiny_llama`` as a GGUF file of plain numbers."""
    return write_gguf(tmp_path / "tiny-model.gguf", tiny_llama)


@pytest.fixture
def quantised_gguf(tmp_path: Path, tiny_llama: LlamaForCausalLM) -> Callable[[str], Path]:
    """``tiny_llama`` as a GGUF file, its matrices in blocks of a type where their rows are long enough."""
    return lambda kind: write_gguf(tmp_path / f"tiny-{kind}.gguf", tiny_llama, kind)


@pytest.fixture
def tiny_mixture() -> Qwen3MoeForCausalLM:
    """As ``tiny_llama``, but untied, of six experts, two of them for a token."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **_shape(),
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        head_dim=16,
    )
    model = Qwen3MoeForCausalLM(config).eval()
    return model.to(torch.bfloat16).to(torch.float32)


@pytest.fixture
def mixture_gguf(tmp_path: Path, tiny_mixture: Qwen3MoeForCausalLM) -> Callable[..., Path]:
    """``tiny_mixture`` as a GGUF file; see ``write_gguf``."""
    return partial(write_gguf, tmp_path / "tiny-mixture.gguf", tiny_mixture)


def write_gguf(
    path: Path,
    model: LlamaForCausalLM | Qwen3MoeForCausalLM,
    kind: str | None = None,
    *,
    is_joined: bool = False,
    **others: str | None,
) -> Path:
    """Write a model as llama.cpp does, with the rows of a Llama's queries and keys interleaved.

    Args:
        kind: ggml's name of the type of matrices; None for plain numbers.
        is_joined: gate and up of experts are one tensor.
        others: of matrices by these names, without their layer.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType

    config = model.config
    is_mixture = config.model_type == "qwen3_moe"
    writer = GGUFWriter(str(path), "qwen3moe" if is_mixture else "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if is_mixture:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = _vocabulary() + PLAIN_ADDED
    kinds = [TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    kinds[-len(PLAIN_ADDED) :] = [TokenType.USER_DEFINED] * len(PLAIN_ADDED)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["! !", "? ?"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHATML)
    for name, tensor in _gguf_tensors(model, is_joined=is_joined):
        numbers = np.ascontiguousarray(tensor.numpy())
        own = others.get(name.split(".")[-2], kind)
        if own is None or tensor.dim() < 2 or tensor.shape[-1] % 32 or "gate_inp" in name:
            writer.add_tensor(name, numbers)
        else:
            writer.add_tensor(name, quantised(own, numbers), raw_dtype=GGMLQuantizationType[own])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_tensors(
    model: LlamaForCausalLM | Qwen3MoeForCausalLM, *, is_joined: bool
) -> list[tuple[str, torch.Tensor]]:
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate": "ffn_gate_inp",
    }
    weights = model.state_dict()
    tensors = [
        ("token_embd.weight", weights["model.embed_tokens.weight"]),
        ("output_norm.weight", weights["model.norm.weight"]),
    ]
    is_llama = isinstance(model, LlamaForCausalLM)
    if not is_llama:
        tensors.append(("output.weight", weights["lm_head.weight"]))
    for layer in range(model.config.num_hidden_layers):
        if not is_llama:
            experts = model.model.layers[layer].mlp.experts
            gate, up = experts.gate_up_proj.data.chunk(2, 1)
            parts = {"gate_up": experts.gate_up_proj.data} if is_joined else {"gate": gate, "up": up}
            parts["down"] = experts.down_proj.data
            tensors += [(f"blk.{layer}.ffn_{part}_exps.weight", weight) for part, weight in parts.items()]
        for name, short in names.items():
            if (weight := weights.get(f"model.layers.{layer}.{name}.weight")) is None:
                continue
            if is_llama and short in ("attn_q", "attn_k"):
                weight = weight.reshape(-1, 2, model.config.head_dim // 2, weight.shape[1])
                weight = weight.transpose(1, 2).reshape(-1, model.config.hidden_size)
            tensors.append((f"blk.{layer}.{short}.weight", weight))
    return tensors


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks; lrqk's cache is a fresh folder beside it."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def in_wheels(wheelhouse: Path) -> Callable[[bytes, int], CatalogEntry]:
    """Spread bytes over the wheels of invented packages, and give the entry that names them."""

    def build(content: bytes, count: int) -> CatalogEntry:
        size = -(-len(content) // count)
        parts = []
        for number in range(count):
            name, member = f"lrqk_tiny_part{number}", f"lrqk_tiny_part{number}/data/part{number}.bin"
            wheel = wheelhouse / f"{name}-1.0-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(member, content[number * size : (number + 1) * size])
                info = f"{name}-1.0.dist-info"
                archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
                archive.writestr(
                    f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
                )
                archive.writestr(f"{info}/RECORD", "")
            parts.append(WheelPart(name.replace("_", "-"), "1.0", member, wheel.stat().st_size))
        return CatalogEntry(
            alias="tiny",
            description="",
            license="",
            context=256,
            size_bytes=sum(part.size_bytes for part in parts),
            sha256=hashlib.sha256(content).hexdigest(),
            wheels=tuple(parts),
        )

    return build
