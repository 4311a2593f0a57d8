"""Tiny tokenizers, models, GGUF files and wheels, made on the spot."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import CHATML, PLAIN_ADDED, SPECIAL, VOCABULARY, write_gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from lrqk_cli.models.catalog import CatalogEntry, WheelPart


def _shape() -> dict[str, Any]:
    """Return what the tiny models have in common; their vocabulary is that of ``tokenizer``."""
    return {
        "vocab_size": len(VOCABULARY) + len(PLAIN_ADDED),
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
        models.BPE({token: i for i, token in enumerate(VOCABULARY)}, [("!", "!"), ("?", "?")])
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
    return _converted(tmp_path / "tiny-model.gguf", tiny_llama)


@pytest.fixture
def quantised_gguf(tmp_path: Path, tiny_llama: LlamaForCausalLM) -> Callable[[str], Path]:
    """``tiny_llama`` as a GGUF file, its matrices in blocks of a type where their rows are long enough."""
    return lambda kind: _converted(tmp_path / f"tiny-{kind}.gguf", tiny_llama, kind)


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
    return partial(_converted, tmp_path / "tiny-mixture.gguf", tiny_mixture)


def _converted(
    path: Path,
    model: LlamaForCausalLM | Qwen3MoeForCausalLM,
    kind: str | None = None,
    *,
    is_joined: bool = False,
    **others: str | None,
) -> Path:
    """Write a model as llama.cpp does, with the rows of a Llama's queries and keys interleaved.

    Args:
        is_joined: gate and up of experts are one tensor.
        kind, others: see ``write_gguf``.
    """
    config = model.config
    values: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": 10000.0,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
    }
    if is_mixture := config.model_type == "qwen3_moe":
        values |= {
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    tensors = _gguf_tensors(model, is_joined=is_joined)
    return write_gguf(path, "qwen3moe" if is_mixture else "llama", values, tensors, kind, **others)


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
