from __future__ import annotations

from typing import Any

import pytest
import transformers
from tiny import FAMILIES, tiny_model

from lrqk_cli.attention.hook import attention_modules
from lrqk_cli.errors import ModelError, UnsupportedModelError
from lrqk_cli.models import catalog, states
from lrqk_cli.models.support import check_supported, spec_from_config

_KINDS = {
    "mistral-sliding": ("sliding", "sliding"),
    "gemma2": ("sliding", "full"),
    "gemma3": ("sliding", "full"),
    "gpt-oss": ("sliding", "full"),
    **dict.fromkeys(("qwen3-next", "qwen3.5", "qwen3.5-moe"), ("none", "full")),
    **dict.fromkeys(("lfm2", "lfm2-moe", "granite-hybrid"), ("none", "full")),
    "nemotron-h": ("none", "full", "none", "none"),
    "gemma4": ("sliding", "full"),
    "gemma4-shared": ("sliding", "full") * 3,
}


def _config(name: str = "Llama", **changes: Any) -> Any:
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
    }
    return getattr(transformers, f"{name}Config")(**{**shape, **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_spec_is_what_the_model_is(family: str):
    model = tiny_model(family)
    spec = spec_from_config(model.config, family)
    assert spec.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert spec.architecture == type(model).__name__
    assert spec.layer_kinds == _KINDS.get(family, ("full", "full"))
    assert spec.sliding_window == (24 if "sliding" in spec.layer_kinds else None)
    for number, attention in attention_modules(model).items():
        own = spec.of_sliding if spec.layer_kinds[number] == "sliding" else spec
        key_width = own.num_kv_heads * own.head_dim
        if hasattr(attention, "k_proj"):
            assert attention.k_proj.out_features == key_width
        elif hasattr(attention, "qkv_proj"):
            assert attention.qkv_proj.out_features == own.num_heads * own.head_dim + 2 * key_width
        elif spec.is_latent:
            assert attention.kv_a_proj_with_mqa.out_features == key_width
        else:
            assert spec.row_owners[number] < number


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Llama", {"tie_word_embeddings": True}),
        ("Llama", {"head_dim": 16}),
        ("Qwen3", {"attention_bias": True}),
    ],
)
def test_biases_ties_and_head_sizes_are_counted(family: str, change: dict[str, Any]):
    config = _config(family, **change)
    model = transformers.AutoModelForCausalLM.from_config(config)
    spec = spec_from_config(config, "tiny")
    assert spec.num_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("family", "change", "kinds"),
    [
        (
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
            "full full sliding",
        ),
        ("Qwen2", {"use_sliding_window": False, "sliding_window": 8}, "full full full"),
        ("Mistral", {"sliding_window": 8}, "sliding sliding sliding"),
        ("Mistral", {"sliding_window": None}, "full full full"),
        ("Phi3", {"sliding_window": 8}, "sliding sliding sliding"),
        # Llama's class knows no window: the key stays in the config and no layer reads it.
        ("Llama", {"sliding_window": 8}, "full full full"),
        ("Gemma3Text", {"sliding_window": 8, "num_hidden_layers": 7}, "sliding " * 5 + "full sliding"),
    ],
)
def test_layer_kinds_follow_what_the_layers_do(family: str, change: dict[str, Any], kinds: str):
    spec = spec_from_config(_config(family, **change), "tiny")
    assert spec.layer_kinds == tuple(kinds.split())
    assert spec.sliding_window == (8 if "sliding" in kinds else None)


_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


_LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 128,
}


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        (None, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 128}, 1024),
        ({"rope_type": "dynamic", "factor": 2.0}, 1024),
        (_LONGROPE, 128),
        ({"rope_type": "linear", "factor": 4.0}, 1024),
        (_LLAMA3, 1024),
    ],
    ids=["none", "yarn switched on", "yarn trained in", "dynamic", "longrope", "linear", "llama3"],
)
def test_contexts_follow_rope_scaling(rope: dict[str, Any] | None, longest: int):
    spec = spec_from_config(_config(rope_parameters=rope and {"rope_theta": 10000.0, **rope}), "tiny")
    assert (spec.trained_context, spec.max_context) == (1024, longest)


@pytest.mark.parametrize(
    ("config", "feature"),
    [
        (("T5", {}), "an encoder beside the decoder"),
        (("Bloom", {}), "an attention that cannot be replaced"),
        (("Mamba", {}), "no layer with attention"),
        (("DeepseekV32", {}), "indexe"),
        (("Llama4Text", {}), "chunked attention"),
        (("Falcon", {"alibi": True}), "ALiBi"),
        (("Gemma3Text", {"use_bidirectional_attention": True}), "bidirectional attention"),
        (("Gemma3nText", {}), "layers of different shapes"),
        (("SiglipVision", {}), "no text generation"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_what_is_not_honoured_is_refused_by_its_feature(config: tuple[str, dict[str, Any]], feature: str):
    name, changes = config
    made = getattr(transformers, f"{name}Config")(**changes)
    with pytest.raises(UnsupportedModelError, match=feature):
        check_supported(made)
    with pytest.raises(UnsupportedModelError, match=feature):
        spec_from_config(made, name)


def test_an_encoder_is_known_by_its_layers():
    with pytest.raises(UnsupportedModelError, match="bidirectional attention"):
        spec_from_config(transformers.BertConfig(), "bert")


def test_the_text_part_of_a_multimodal_config_counts():
    text = _config("Gemma3Text", sliding_window=8)
    spec = spec_from_config(transformers.Gemma3Config(text_config=text.to_dict()), "tiny")
    assert spec == spec_from_config(text, "tiny")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "no-such-model"}, "cannot be read"),
        ({}, "cannot be read"),
        ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size is 'wide'"),
    ],
)
def test_a_config_that_says_nothing_sensible_is_a_plain_error(config: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        spec_from_config(config, "tiny")


@pytest.mark.parametrize("alias", catalog.catalog())
def test_every_catalog_entry_is_supported(alias: str):
    entry = catalog.find(alias)
    spec = spec_from_config(entry.config, alias)
    assert spec.max_context == entry.context
    assert spec.num_parameters == {
        "qwen2.5-coder-0.5b": 494_032_768,
        "smollm2-135m": 134_515_008,
        "gemma-3-270m": 268_098_176,
    }.get(alias, spec.num_parameters)


def test_an_attention_that_layers_share_is_refused(monkeypatch):
    monkeypatch.setattr(states, "_EXACT", states._EXACT | {"Zamba2MambaMixer"})
    sizes = {"mamba_d_state": 8, "n_mamba_heads": 8, "num_mem_blocks": 1, "adapter_rank": 4}
    config = _config("Zamba2", layers_block_type=["mamba", "hybrid", "hybrid"], **sizes)
    with pytest.raises(UnsupportedModelError, match="attention that cannot be replaced"):
        spec_from_config(config, "tiny")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4}),
        ("Bamba", {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}),
    ],
)
def test_states_that_transformers_does_not_continue_exactly_are_refused(name: str, changes: dict[str, Any]):
    with pytest.raises(UnsupportedModelError, match="a recurrent state that lrqk was not tested with"):
        spec_from_config(_config(name, **changes), "tiny")
