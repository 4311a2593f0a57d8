"""Parameters counted from a configuration, and configurations read without transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILIES, KNOWN, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from lrqk_cli.models import catalog, shapes
from lrqk_cli.models.families import family_of, read_plainly
from lrqk_cli.models.support import spec_from_config

PUBLISHED = {**{name: dict(entry.config) for name, entry in catalog.catalog().items()}, **shapes.shapes()}


def built_parameters(config: Any) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", KNOWN)
def test_the_count_is_that_of_the_built_model(family: str) -> None:
    config = tiny_model(family).config
    assert family_of(config) is not None
    assert spec_from_config(config, family).num_parameters == built_parameters(config)


@pytest.mark.parametrize(
    "changes", [{}, {"attention_bias": True, "mlp_bias": True}, {"attention_bias": False}]
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_biases_and_ties_count(family: str, tied: bool, changes: dict[str, bool]) -> None:
    model = tiny_model(family, tie_word_embeddings=tied, **changes)
    counted = spec_from_config(model.config, family).num_parameters
    assert counted == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_reads_the_same_without_transformers(name: str) -> None:
    config = PUBLISHED[name]
    if not config:
        pytest.skip("the catalog leaves its config to the hub")
    # Mistral's class has a window where the config does not say that there is none.
    # The layers of Qwen3.5 have no layout that is known without transformers.
    assert read_plainly(config) is not None or config["model_type"] in ("mistral", "qwen3_5_text")
    full = AutoConfig.for_model(**config)
    spec = spec_from_config(config, name)
    assert spec == spec_from_config(full, name)
    assert spec.num_parameters == built_parameters(full)


@pytest.mark.parametrize("family", KNOWN)
def test_a_saved_config_reads_the_same_without_transformers(family: str) -> None:
    config = tiny_model(family).config
    saved = config.to_dict()
    assert read_plainly(saved) is not None
    assert spec_from_config(saved, family) == spec_from_config(config, family)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "falcon"},
        {"hidden_size": "wide"},
        {"num_hidden_layers": None},
        {"num_key_value_heads": 3},
        {"rope_parameters": {"rope_type": "longrope"}},
        {"rope_parameters": "linear"},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8},
        {"model_type": "gemma2", "sliding_window": 8},
        {"model_type": "mistral"},
    ],
)
def test_what_is_not_stated_is_left_to_transformers(changes: dict[str, Any]) -> None:
    assert read_plainly({**shapes.shapes()["llama-3.2-1b"], **changes}) is None
