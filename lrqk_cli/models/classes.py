"""transformers' class of a language model, and the model that it makes without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrqk_cli.models.failures import refuse
from lrqk_cli.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_CAUSAL = "ForCausalLM"


def causal_model_class(text: PreTrainedConfig) -> Any:
    """Return transformers' class of a language model without other parts.

    Raises:
        UnsupportedModelError: there is none.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    with quiet_transformers():
        # Some language models that only serve as a part of others are listed with those.
        found: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None)
        other: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(text), None)
    if found is None and (other is None or not other.__name__.endswith(_CAUSAL)):
        refuse(
            "no text generation of its own",
            f"transformers has no causal language model for {text.model_type}",
        )
    return found or other


def meta_model(text: PreTrainedConfig) -> PreTrainedModel:
    """The model of a text configuration on the meta device, which takes no memory."""
    import torch

    with quiet_transformers(), torch.device("meta"):
        model: PreTrainedModel = causal_model_class(text)._from_config(text)
        model.tie_weights()
    return model
