"""What transformers' tables leave out of a GGUF header, beside the models that were converted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from converted import CONVERSIONS, Conversion, converted, interleaved
from gguf_files import write_gguf
from transformers import PreTrainedModel

from lrqk_cli.errors import ModelError
from lrqk_cli.models import gguf
from lrqk_cli.models.describe import describe
from lrqk_cli.models.gguf_index import read_index
from lrqk_cli.models.gguf_weights import survey
from lrqk_cli.models.support import spec_from_config

pytestmark = pytest.mark.short

CPU = torch.device("cpu")
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [4.0] * 8,
    "short_factor": [1.0, 1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 4.0],
    "original_max_position_embeddings": 512,
}
# Any factors, which are those of all texts.
_FACTORS = [1.0, 1.0, 1.25, 2.0, 3.0, 5.0, 7.0, 8.0]
_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


def llama3_factors() -> torch.Tensor:
    """Return the factors by which llama.cpp's converter writes ``_LLAMA3``, in float64 first."""
    waves = 2 * np.pi * 500000.0 ** (np.arange(8) / 8)
    smooth = (8192 / waves - 1) / 3
    found = np.where(waves < 2048, 1.0, np.where(waves > 8192, 8.0, 1 / ((1 - smooth) / 8 + smooth)))
    return torch.from_numpy(found.astype(np.float32))


def values(config: Any, **others: Any) -> dict[str, Any]:
    """Return the values of a header, with those of how positions turn."""
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    found = {
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": getattr(config, "head_dim", None),
        "attention.sliding_window": getattr(config, "sliding_window", None),
        "rope.freq_base": rope["rope_theta"],
        "rope.dimension_count": 16,
    }
    if rope["rope_type"] in ("yarn", "linear"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    if rope["rope_type"] in ("yarn", "longrope"):
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return {key: value for key, value in (found | others).items() if value is not None}


def caps(config: Any) -> dict[str, Any]:
    return values(
        config,
        attn_logit_softcapping=config.attn_logit_softcapping,
        final_logit_softcapping=config.final_logit_softcapping,
    )


def unchanged(*_: Any) -> None:
    """Return None: only the name changes."""


def fused(_: Any, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """Return the tensors of Phi-3, which has the model's own, under names that several families share."""
    return {"ffn_up.weight": tensor} if name == "mlp.gate_up_proj.weight" else None


def of_llama(rope: dict[str, Any], factors: torch.Tensor | None = None) -> Conversion:
    positions = None if factors is None else {"rope_freqs.weight": factors}
    return Conversion("llama", "llama", {"rope_parameters": rope}, values, interleaved, positions=positions)


CASES = {
    "llama3": of_llama(_LLAMA3, llama3_factors()),
    "other factors": of_llama(
        {**_LONG, "short_factor": _FACTORS, "long_factor": _FACTORS, "attention_factor": 1.0}
        | {"original_max_position_embeddings": 2048},
        torch.tensor(_FACTORS),
    ),
    "yarn": of_llama(_YARN),
    "yarn, a factor of its own": of_llama({**_YARN, "attention_factor": 1.5})._replace(
        values=lambda config: values(config, **{"rope.scaling.attn_factor": 1.5 / (1 + 0.1 * math.log(4.0))})
    ),
    "linear": of_llama({"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "qwen2 yarn": Conversion("qwen2", "qwen2", {"rope_parameters": _YARN}, values, unchanged),
    "qwen3, another head": Conversion("qwen3", "qwen3", {}, values, unchanged),
    "phi3": Conversion("phi3", "phi3", {}, values, fused),
    "phi3, a window": Conversion("phi3", "phi3", {"sliding_window": 24}, values, fused),
    "phi3, long": Conversion(
        "phi3",
        "phi3",
        {"rope_parameters": _LONG, "original_max_position_embeddings": 512},
        values,
        fused,
        positions={
            f"rope_factors_{name}.weight": torch.tensor(_LONG[f"{name}_factor"]) for name in ("long", "short")
        },
    ),
    "phi3, a part": Conversion(
        "phi3",
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}},
        lambda config: values(config, **{"attention.key_length": 16, "rope.dimension_count": 12}),
        fused,
    ),
    "gemma2": Conversion(
        "gemma2",
        "gemma2",
        {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
        caps,
        unchanged,
        counts_from_one=True,
    ),
    "gemma2 of 27B": Conversion(
        "gemma2",
        "gemma2",
        {"num_hidden_layers": 46, "num_attention_heads": 8, "query_pre_attn_scalar": 8},
        caps,
        unchanged,
        counts_from_one=True,
    ),
    "gemma3": Conversion(
        "gemma3",
        "gemma3",
        {
            "rope_parameters": _GEMMA3_ROPE,
            "query_pre_attn_scalar": 16,
            "num_hidden_layers": 6,
            "layer_types": None,
        },
        values,
        unchanged,
        counts_from_one=True,
    ),
}


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.arange(300) % 200 + 3
    found: torch.Tensor = model(tokens.unsqueeze(0), use_cache=False).logits
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_file_gives_the_model_that_was_converted(name: str, tmp_path: Path) -> None:
    model, file = converted(CASES[name], tmp_path / "tiny.gguf")
    assert gguf.prepare(file, tmp_path, {}, lambda *_: None)
    found = gguf.load(file, tmp_path, gguf.read_config(file), {"": CPU}, torch.float32, packed=False)
    torch.testing.assert_close(logits(found), logits(model), atol=1e-4, rtol=1e-4)
    expected, described = spec_from_config(model.config, str(file)), describe(str(file)).spec
    assert described.layer_kinds == expected.layer_kinds
    assert described.max_context == expected.max_context


def test_the_factors_of_llama3_are_its_parameters(tmp_path: Path) -> None:
    _, file = converted(CASES["llama3"], tmp_path / "tiny.gguf")
    assert gguf.read_config(file).rope_parameters == _LLAMA3


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"rope.dimension_count": 8}, {}, "rotates 8 of 16 dimensions"),
        ({"rope.scaling.type": "su"}, {}, "RoPE scaling of the kind su"),
        ({"rope.scaling.type": "longrope"}, {}, "RoPE scaling of the kind longrope"),
        ({}, {"rope_freqs.weight": torch.ones(4)}, "not those of 16 dimensions"),
        (
            {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
            {"rope_freqs.weight": torch.ones(8)},
            "scaled in several ways",
        ),
        ({}, {"blk.0.attn_q.bias": torch.ones(64)}, "it has blk.0.attn_q.bias"),
        ({"block_count": 1}, {}, r"it has blk\.1\.\w+\.weight"),
    ],
)
def test_what_would_be_ignored_is_refused(
    changes: dict[str, Any], more: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    plain = of_llama({"rope_type": "default", "rope_theta": 10000.0})
    changed = plain._replace(values=lambda config: values(config) | changes, positions=more)
    _, file = converted(changed, tmp_path / "tiny.gguf")
    with pytest.raises(ModelError, match=message):
        gguf.prepare(file, tmp_path, {}, lambda *_: None)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("gemma4-shared", {"blk.5.attn_k.weight": torch.ones(32, 64)}),
        (
            "qwen3.5",
            {"blk.2.nextn.eh_proj.weight": torch.ones(64, 128), "blk.2.attn_q.weight": torch.ones(64, 64)},
        ),
        ("llama3", {"blk.0.attn_rot_embd.inv_freq": torch.ones(8)}),
    ],
)
def test_what_no_layer_needs_may_be_there(name: str, more: dict[str, torch.Tensor], tmp_path: Path) -> None:
    conversion = CASES.get(name) or CONVERSIONS[name]
    given = conversion._replace(positions={**(conversion.positions or {}), **more})
    model, file = converted(given, tmp_path / "tiny.gguf")
    assert survey(read_index(file), model.config).lacking == ()


def test_a_linear_factor_may_have_its_old_name(tmp_path: Path) -> None:
    plain = of_llama({"rope_type": "default", "rope_theta": 10000.0})
    _, file = converted(
        plain._replace(values=lambda config: values(config, **{"rope.scale_linear": 4.0})),
        tmp_path / "tiny.gguf",
    )
    found = gguf.read_config(file).rope_parameters
    assert (found["rope_type"], found["factor"]) == ("linear", 4.0)


def bare(path: Path, architecture: str, **others: Any) -> Path:
    """Return a file with little more than a header."""
    sizes = {"block_count": 2, "context_length": 2048, "embedding_length": 80, "feed_forward_length": 96}
    heads = {"attention.head_count": 4, "attention.head_count_kv": 2}
    tensors = [("token_embd.weight", torch.zeros(264, 80))]
    return write_gguf(path / "tiny.gguf", architecture, {**sizes, **heads, **others}, tensors)


def test_gemma3_of_27b_scales_by_the_width_of_its_embeddings(tmp_path: Path) -> None:
    own = {"block_count": 62, "attention.key_length": 16, "attention.layer_norm_rms_epsilon": 1e-6}
    file = bare(tmp_path, "gemma3", **own, **{"rope.freq_base": 1000000.0})
    assert gguf.read_config(file).query_pre_attn_scalar == 20


def test_starcoder2_has_the_base_and_the_window_of_its_header(tmp_path: Path) -> None:
    own = {"attention.layer_norm_epsilon": 1e-5, "attention.sliding_window": 1024}
    found = gguf.read_config(bare(tmp_path, "starcoder2", **own, **{"rope.freq_base": 999999.0}))
    assert (found.rope_parameters["rope_theta"], found.sliding_window) == (999999.0, 1024)
