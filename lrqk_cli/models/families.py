"""Families of models with a known layout, whose parameters are counted without building the model.

The key ``model_type`` of a configuration names the family. Support does not depend on it: a model of another
family is built on torch's meta device instead, which takes seconds. Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from lrqk_cli.formats import UNIT
from lrqk_cli.models.mixes import Matrix, share_read

Windows = Literal["none", "switched", "all", "listed"]


class ExpertFields(NamedTuple):
    """How a config describes the experts of a layer: a router and gated MLPs.

    Attributes:
        inner: the config's key of the inner size of each.
        biased: all experts and the router have biases.
    """

    inner: str
    biased: bool

    def sizes(self, text: Any) -> tuple[int, int]:
        """Return their number and the inner size of each."""
        count: int = next((n for name in _EXPERT_COUNTS if (n := getattr(text, name, None)) is not None), 0)
        inner: int = getattr(text, self.inner)
        return count, inner


@dataclass(frozen=True, slots=True)
class Family:
    """The layout of a decoder with rotary positions, RMS norms and gated MLPs.

    Attributes:
        architecture: the class in transformers.
        norms: number of norms of the hidden states in a layer.
        query_key_norms: queries and keys have a norm each.
        qkv_bias, output_bias: whether these projections have biases; None leaves it to ``attention_bias``.
        attention_bias: the default if the config does not have this key.
        mlp_bias: whether the config's ``mlp_bias`` counts.
        fused: queries, keys and values share one matrix, and so do gate and up.
        experts: the experts of layers whose MLP is a mixture; None without such layers.
        sinks: every query head has an attention sink.
        tied: whether output and input embeddings share a matrix if the config does not say.
        windows: which layers have sliding windows: none; none unless ``use_sliding_window``; all, if
            ``sliding_window`` is set; those that ``layer_types`` lists.
    """

    architecture: str
    norms: int = 2
    query_key_norms: bool = False
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    fused: bool = False
    experts: ExpertFields | None = None
    sinks: bool = False
    tied: bool = False
    windows: Windows = "none"


_FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", mlp_bias=True),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, output_bias=False, windows="switched"),
    "qwen3": Family("Qwen3ForCausalLM", query_key_norms=True, windows="switched"),
    "mistral": Family("MistralForCausalLM", qkv_bias=False, output_bias=False, windows="all"),
    "phi3": Family("Phi3ForCausalLM", qkv_bias=False, output_bias=False, fused=True, windows="all"),
    "gemma2": Family("Gemma2ForCausalLM", norms=4, tied=True, windows="listed"),
    "gemma3_text": Family("Gemma3ForCausalLM", norms=4, query_key_norms=True, tied=True, windows="listed"),
    "gpt_oss": Family(
        "GptOssForCausalLM",
        attention_bias=True,
        experts=ExpertFields("intermediate_size", biased=True),
        sinks=True,
        windows="listed",
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        query_key_norms=True,
        experts=ExpertFields("moe_intermediate_size", biased=False),
        windows="switched",
    ),
}

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
# Keys for the number of experts in published configurations.
_EXPERT_COUNTS = ("num_local_experts", "num_experts")
# Kinds of RoPE scaling that a configuration states in full; transformers completes the others.
_STATED_ROPE = ("default", "linear", "llama3", "yarn")


def family_of(text: Any) -> Family | None:
    """The family of a configuration with attributes; None if it is unknown."""
    return _FAMILIES.get(getattr(text, "model_type", ""))


def is_tied(text: Any) -> bool:
    """Whether output and input embeddings are one matrix."""
    family = family_of(text)
    tied = getattr(text, "tie_word_embeddings", None)
    return bool(family and family.tied if tied is None else tied)


def read_plainly(config: Mapping[str, Any]) -> SimpleNamespace | None:
    """The configuration as transformers would read it, without importing transformers.

    Returns:
        None if the shape depends on defaults of transformers, or if the configuration is malformed:
        transformers then has to read it.
    """
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return None
    sizes = [config.get(key) for key in _SIZES]
    if family.experts is not None:
        sizes += [config.get(key) for key in (family.experts.inner, "num_experts_per_tok")]
        sizes.append(next((config[name] for name in _EXPERT_COUNTS if name in config), None))
    if not all(map(_is_size, sizes)):
        return None
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim")
    if head_dim is None and family.windows != "listed" and config["hidden_size"] % heads == 0:
        # Qwen3 and the families that list their windows have their own default head sizes.
        head_dim = None if family.query_key_norms else config["hidden_size"] // heads
    if config["model_type"] == "gemma2" and "attn_logit_softcapping" not in config:
        return None
    rope = _rope(config)
    layers = _layers(config, family)
    if not _is_size(head_dim) or heads % config["num_key_value_heads"] or rope is None or layers is None:
        return None
    kinds, window = layers
    changes = {"head_dim": head_dim, "rope_parameters": rope, "layer_types": kinds, "sliding_window": window}
    return SimpleNamespace(**{**config, **changes})


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _rope(config: Mapping[str, Any]) -> dict[str, Any] | None:
    stated = config.get("rope_parameters", config.get("rope_scaling")) or {}
    if not isinstance(stated, Mapping):
        return None
    nested = [value for value in stated.values() if isinstance(value, Mapping)]
    for rope in nested or [stated]:
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in _STATED_ROPE or (kind == "yarn" and "rope_type" not in rope):
            return None
    if config.get("model_type") == "phi3" and "rope_scaling" in config and config["rope_scaling"]:
        return None
    return dict(stated)


def _layers(config: Mapping[str, Any], family: Family) -> tuple[list[str] | None, int | None] | None:
    """The kinds of the layers (None: one kind for all) and the window; None if they are not stated."""
    window = config.get("sliding_window") or None
    if window is not None and not _is_size(window):
        return None
    if family.windows == "none":
        return None, None
    if family.windows == "all":
        return (None, window) if "sliding_window" in config else None
    if family.windows == "switched" and not config.get("use_sliding_window", False):
        return ["full_attention"] * config["num_hidden_layers"], None
    kinds = config.get("layer_types")
    is_stated = isinstance(kinds, list) and len(kinds) == config["num_hidden_layers"] and window is not None
    return (list(kinds or ()), window) if is_stated else None


def count_parameters(text: Any, family: Family, head_dim: int) -> int:
    """Count the parameters of a model of a known family, tied embeddings once.

    Args:
        text: its configuration, with attributes.
        head_dim: the head size d.
    """
    hidden: int = text.hidden_size
    embeddings: int = text.vocab_size * hidden * (1 if is_tied(text) else 2)
    layer = _attention_parameters(text, family, head_dim) + family.norms * hidden
    layers: int = text.num_hidden_layers
    inner = sum(_mlp_parameters(text, family, number) for number in range(layers))
    return embeddings + layers * layer + inner + hidden


def _experts_in(text: Any, family: Family, layer: int) -> ExpertFields | None:
    """The experts of a layer; None if its MLP is dense, as configurations can state for single layers."""
    step: int = getattr(text, "decoder_sparse_step", None) or 1
    excepted = getattr(text, "mlp_only_layers", None) or ()
    return family.experts if layer not in excepted and (layer + 1) % step == 0 else None


def _attention_parameters(text: Any, family: Family, head_dim: int) -> int:
    hidden: int = text.hidden_size
    queries: int = text.num_attention_heads * head_dim
    keys: int = (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_dim
    declared = bool(getattr(text, "attention_bias", family.attention_bias))
    count = 2 * hidden * (queries + keys)
    if declared if family.qkv_bias is None else family.qkv_bias:
        count += queries + 2 * keys
    if declared if family.output_bias is None else family.output_bias:
        count += hidden
    if family.query_key_norms:
        count += 2 * head_dim
    if family.sinks:
        count += int(text.num_attention_heads)
    return count


def _mlp_parameters(text: Any, family: Family, layer: int) -> int:
    hidden: int = text.hidden_size
    if (fields := _experts_in(text, family, layer)) is not None:
        count, inner = fields.sizes(text)
        # Each expert also has a row of the router.
        weights = 3 * hidden * inner + hidden
        biases = 2 * inner + hidden + 1 if fields.biased else 0
        experts: int = count * (weights + biases)
        return experts
    inner = int(text.intermediate_size)
    biases = 2 * inner + hidden if family.mlp_bias and getattr(text, "mlp_bias", False) else 0
    return 3 * hidden * inner + biases


def matrices(text: Any, family: Family, head_dim: int) -> Iterator[Matrix]:
    """Yield the packable matrices of a model of a known family; ``matrices_of`` does it for a built model.

    Args: see ``count_parameters``.
    """
    hidden: int = text.hidden_size
    yield Matrix("model.embed_tokens", text.vocab_size, hidden, is_embedding=True)
    for layer in range(text.num_hidden_layers):
        for name, rows, width in _of_attention(text, family, head_dim):
            yield Matrix(f"model.layers.{layer}.{name}", rows, width)
        for name, rows, width, share in _of_mlp(text, family, layer):
            yield Matrix(f"model.layers.{layer}.mlp.{name}", rows, width, share_read=share)
    if not is_tied(text):
        yield Matrix("lm_head", text.vocab_size, hidden)


def _of_attention(text: Any, family: Family, head_dim: int) -> Iterator[tuple[str, int, int]]:
    hidden: int = text.hidden_size
    queries: int = text.num_attention_heads * head_dim
    keys: int = (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_dim
    if family.fused:
        yield "self_attn.qkv_proj", queries + 2 * keys, hidden
    else:
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"self_attn.{name}_proj", rows, hidden
    yield "self_attn.o_proj", hidden, queries


def _of_mlp(text: Any, family: Family, layer: int) -> Iterator[tuple[str, int, int, float]]:
    """Yield the matrices of an MLP, each with the share of it that a decode step reads."""
    hidden: int = text.hidden_size
    inner: int = text.intermediate_size
    if (fields := _experts_in(text, family, layer)) is not None:
        count, inner = fields.sizes(text)
        share = share_read(text, count)
        if hidden % UNIT == inner % UNIT == 0:
            yield "experts.gate_up_proj", count * 2 * inner, hidden, share
            yield "experts.down_proj", count * hidden, inner, share
        return
    if family.fused:
        yield "gate_up_proj", 2 * inner, hidden, 1.0
    else:
        yield "gate_proj", inner, hidden, 1.0
        yield "up_proj", inner, hidden, 1.0
    yield "down_proj", hidden, inner, 1.0
