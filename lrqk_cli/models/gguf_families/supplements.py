"""What transformers' tables leave out of a header: how positions turn, scales and windows of attention."""

from __future__ import annotations

import math

import numpy as np

from lrqk_cli.models.gguf_families.base import LONG_FACTORS, Numbers, Settings, rope
from lrqk_cli.models.gguf_reader import HeaderValues

# Files have the factors of Llama 3 as numbers only. These are its parameters in all published models, beside
# the largest factor.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_FACTORS, _SHORT_FACTORS = "rope_freqs.weight", "rope_factors_short.weight"
_ORIGINAL = "rope.scaling.original_context_length"
# Architectures of which transformers can rotate a part of a head.
_MAY_ROTATE_PARTS = frozenset({"phi3", "stablelm", "nemotron", "minimax-m2"})
# Architectures all of whose layers have a window, if the file states one.
_WINDOWS = frozenset({"phi3", "starcoder2"})
# Layers of the models of 27B. These scale logits by the width of the embeddings, as llama.cpp does too.
_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}


def supplements(header: HeaderValues, settings: Settings) -> Settings:
    """Return what transformers' settings of a file lack, to replace theirs.

    Raises:
        ValueError: positions are scaled or rotated in a way that is not read.
    """
    if header.get("rope.freq_base") is None and header.get("rope.dimension_count") is None:
        return {}  # positions are learned, or there is no attention
    found, architecture = Settings(), header.architecture
    if (width := header.get("attention.key_length")) is not None:
        found["head_dim"] = width
    width = width or settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    turned = header.get("rope.dimension_count") or width
    parts: Settings = {}
    if turned != width:
        if architecture not in _MAY_ROTATE_PARTS:
            raise ValueError(f"it rotates {turned} of {width} dimensions of a head")
        parts["partial_rotary_factor"] = turned / width
    found["rope_parameters"] = _scaled(header, rope(header, **parts), turned, settings)
    if architecture in _WINDOWS:
        window = header.get("attention.sliding_window", 0)
        # One as long as the context, as of Phi-3 128K, hides nothing.
        found["sliding_window"] = window if 0 < window < settings["max_position_embeddings"] else None
        if (original := header.get(_ORIGINAL)) is not None:
            found["original_max_position_embeddings"] = original
    if architecture in _LARGEST_GEMMA:
        found |= _gemma(header, settings, width)
    if architecture == "gemma3":
        found["rope_parameters"] = {
            "full_attention": found["rope_parameters"],
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": header.get("rope.freq_base_swa", 10_000.0),
            },
        }
    return found


def _scaled(header: HeaderValues, parameters: Settings, turned: int, settings: Settings) -> Settings:
    """Return the parameters with the factors that a file has as tensors."""
    attention = header.get("rope.scaling.attn_factor")
    if parameters["rope_type"] == "yarn" and attention is not None:
        # llama.cpp multiplies it with the factor that YaRN has by itself.
        parameters = parameters | {"attention_factor": attention * (1 + 0.1 * math.log(parameters["factor"]))}
    held = [name for name in (_FACTORS, LONG_FACTORS, _SHORT_FACTORS) if name in header.shapes]
    if not held:
        return parameters
    if parameters["rope_type"] != "default" or held not in ([_FACTORS], [LONG_FACTORS, _SHORT_FACTORS]):
        raise ValueError("its positions are scaled in several ways")
    factors = [header.numbers(name) for name in held]
    if any(each.shape != (turned // 2,) for each in factors):
        raise ValueError(f"the factors of its positions are not those of {turned} dimensions")
    if held == [_FACTORS]:
        return parameters | _of_factors(factors[0], parameters["rope_theta"], settings)
    found = {"rope_type": "longrope", "long_factor": factors[0].tolist(), "short_factor": factors[1].tolist()}
    found["original_max_position_embeddings"] = header[_ORIGINAL]
    if attention is not None:
        found["attention_factor"] = attention
    return parameters | found


def _of_factors(factors: Numbers, base: float, settings: Settings) -> Settings:
    """Return parameters by which frequencies are divided by factors, ``[dimensions / 2]``."""
    llama3 = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    if np.allclose(factors, _llama3_factors(len(factors), base, llama3), rtol=1e-3):
        return llama3
    # The same factors for texts of any length.
    return {
        "rope_type": "longrope",
        "long_factor": factors.tolist(),
        "short_factor": factors.tolist(),
        "original_max_position_embeddings": settings["max_position_embeddings"],
        "attention_factor": 1.0,
    }


def _llama3_factors(count: int, base: float, parameters: Settings) -> Numbers:
    """Return what Llama 3 divides its frequencies by: 1 for short waves, ``factor`` for long ones.

    Source: transformers, ``modeling_rope_utils._compute_llama3_parameters``.
    """
    waves = 2 * math.pi * base ** (np.arange(count) / count)
    low, high, factor = (parameters[name] for name in ("low_freq_factor", "high_freq_factor", "factor"))
    turns = parameters["original_max_position_embeddings"] / waves
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1 / ((1 - share) / factor + share))


def _gemma(header: HeaderValues, settings: Settings, width: int) -> Settings:
    is_largest = settings["num_hidden_layers"] == _LARGEST_GEMMA[header.architecture]
    scale = settings["hidden_size"] // settings["num_attention_heads"] if is_largest else width
    found: Settings = {"query_pre_attn_scalar": scale}
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (cap := header.get(name)) is not None:
            found[name] = cap
    return found
