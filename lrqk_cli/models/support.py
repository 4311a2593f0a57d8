"""Makes a ModelSpec from a configuration, and refuses features that the engine does not implement.

The checks read the features of a configuration, never a model's name. A model with an unknown layout
(``families``) is built on torch's meta device, where it takes no memory, to count its parameters and check
its attention layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from lrqk_cli.config import WeightForm
from lrqk_cli.errors import ModelError
from lrqk_cli.model_spec import LAYER_KINDS, Mixture, ModelSpec, StateSize, WeightBytes
from lrqk_cli.models import families
from lrqk_cli.models.classes import causal_model_class, meta_model
from lrqk_cli.models.failures import config_errors, refuse
from lrqk_cli.models.layer_shapes import (
    declared,
    expanded_width,
    head_shapes,
    intermediate_size,
    is_latent,
    layer_configs,
    layer_kinds,
    per_layer_width,
    row_owners,
)
from lrqk_cli.models.mixes import ON_LOAD, Matrix, experts_per_token, weight_bytes
from lrqk_cli.models.positions import context_limit
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.sanity import check_plausible, ignore_kernels

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# Values of a key that mean that the feature is off.
_OFF = (None, False, 0)
_UNSUPPORTED_FEATURES = {
    "is_encoder_decoder": "an encoder beside the decoder",
    "attention_chunk_size": "chunked attention",
    "alibi": "ALiBi position biases",
    "relative_attention_num_buckets": "relative position biases",
    "use_bidirectional_attention": "bidirectional attention",
    "add_cross_attention": "cross attention",
    "cross_attention_layers": "cross attention",
    "index_topk": "sparse attention chosen by an indexer",
}
# Attention whose compressed rows tests compare with transformers' own.
_LATENT = frozenset(
    {"DeepseekV2Attention", "DeepseekV3Attention", "Glm4MoeLiteAttention", "Mistral4Attention"}
)
# A global of the modules whose attention can be replaced.
_ATTENTION_INTERFACE = "ALL_ATTENTION_FUNCTIONS"


def spec_from_config(config: PreTrainedConfig | Mapping[str, Any], name: str) -> ModelSpec:
    """The spec of the model that ``config`` describes, or of its text part if it has several parts.

    ``max_context`` depends on the kind of RoPE scaling, see ``positions``; ``trained_context`` is
    ``max_position_embeddings``.

    Raises:
        UnsupportedModelError: the config needs a feature that the engine does not implement.
        ModelError: the config lacks a field or contradicts itself.
    """
    with config_errors():
        return _spec(plain_config(config), name)


def with_form(spec: ModelSpec, form: WeightForm | None, *, experts_on_host: bool = False) -> ModelSpec:
    """Return the spec with the weights in one of ``spec.forms``, or as plain numbers for None.

    Args:
        experts_on_host: packed experts stay in host memory.

    Raises:
        ValueError: the weights cannot have this form.
    """
    packed = next((bytes_ for bytes_ in spec.forms if bytes_.form == form), None)
    if packed is None and form is not None:
        raise ValueError(f"The weights of {spec.name} have no form {form}.")
    chosen = replace(spec, packed=packed, forms=())
    return chosen.with_experts_on_host() if experts_on_host else chosen


def _spec(text: Any, name: str) -> ModelSpec:
    check_supported(text)
    heads = text.num_attention_heads
    kinds, window = layer_kinds(text)
    shapes = head_shapes(text, kinds)
    shape = shapes.get("full") or shapes["sliding"]
    head_dim = shape.head_dim
    family = families.family_of(text)
    skeleton = None
    if family is not None:
        parameters = families.count_parameters(text, family, head_dim)
        matrices = list(families.matrices(text, family, head_dim))
    else:
        from lrqk_cli.models.matrices import matrices_of

        skeleton = meta_model(text)
        parameters = sum(parameter.numel() for parameter in skeleton.parameters())
        matrices = list(matrices_of(skeleton))
    limit = context_limit(text)
    check_plausible({"max_position_embeddings": limit})
    spec = ModelSpec(
        name=name,
        architecture=family.architecture if family else type(skeleton).__name__,
        layer_kinds=kinds,
        num_heads=heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=head_dim,
        hidden_size=text.hidden_size,
        intermediate_size=intermediate_size(text),
        vocab_size=text.vocab_size,
        max_context=limit,
        trained_context=text.max_position_embeddings,
        num_parameters=parameters,
        sliding_window=window,
        num_parameters_read=_parameters_read(text, parameters, matrices),
        mixture=_mixture(text, family, skeleton),
        states=_states(skeleton),
        sliding_heads=None if shapes.get("sliding", shape) == shape else shapes["sliding"],
        row_owners=row_owners(text),
        is_latent=is_latent(text),
        expanded_width=expanded_width(text),
        per_layer_width=per_layer_width(text),
        is_softcapped=bool(declared(text, "attn_logit_softcapping")),
        forms=_forms(text, parameters, matrices),
    )
    if skeleton is not None:
        _check_layers(skeleton, spec)
    return spec


def _mixture(text: Any, family: families.Family | None, skeleton: PreTrainedModel | None) -> Mixture | None:
    """Return the mixture of experts of a model; None without experts."""
    per_token = experts_per_token(text)
    if not per_token:
        return None
    if family is not None:
        fields = family.experts
        return None if fields is None else Mixture(per_token, fields.sizes(text)[1], fields.biased)
    from lrqk_cli.models.matrices import expert_shape, is_packable_experts

    modules = () if skeleton is None else skeleton.modules()
    experts: Any = next(filter(is_packable_experts, modules), None)
    if experts is None:
        return None
    return Mixture(per_token, expert_shape(experts, "down_proj")[2], bool(experts.has_bias))


def _states(skeleton: PreTrainedModel | None) -> StateSize | None:
    if skeleton is None:
        return None
    from lrqk_cli.models.recurrence_kernels import keep_to_gpus
    from lrqk_cli.models.states import state_size

    keep_to_gpus(skeleton)
    try:
        with quiet_transformers():
            return state_size(skeleton)
    except (AttributeError, KeyError, RuntimeError, StopIteration, TypeError):
        refuse("a recurrent state of an unknown form", f"{type(skeleton).__name__} cannot be asked for it")


def _forms(text: Any, parameters: int, matrices: list[Matrix]) -> tuple[WeightBytes, ...]:
    """Return the bytes of the weights in each form into which loading can pack them."""
    whole = sum(matrix.rows * matrix.width for matrix in matrices)
    # Packed weights cannot be packed again, and a model needs one plain weight, whose device is the model's.
    if getattr(text, "quantization_config", None) or whole == parameters:
        return ()
    layers, is_tied = text.num_hidden_layers, families.is_tied(text)
    return tuple(weight_bytes(form, matrices, layers, parameters, is_tied=is_tied) for form in ON_LOAD)


def plain_config(config: Any) -> Any:
    """The fields of ``config``, or of its text part if it has several parts, as attributes.

    A mapping that states all fields of the shape is read without importing transformers.

    Raises:
        ModelError: see ``text_config``.
    """
    if isinstance(config, SimpleNamespace):
        return config
    plain = families.read_plainly(config) if isinstance(config, Mapping) else None
    return plain if plain is not None else text_config(config)


def _parameters_read(text: Any, parameters: int, matrices: list[Matrix]) -> int | None:
    """The parameters that a decode step reads; None for a mixture of unknown layout."""
    unread = sum(round(matrix.rows * matrix.width * (1 - matrix.share_read)) for matrix in matrices)
    if experts_per_token(text) and not any(each.is_of_experts for each in matrices):
        return None
    return parameters - unread - (0 if families.is_tied(text) else text.vocab_size * text.hidden_size)


def text_config(config: PreTrainedConfig | Mapping[str, Any]) -> PreTrainedConfig:
    """The part of ``config`` that describes the language model; a mapping becomes a config first.

    Raises:
        ModelError: the config names no known kind of model, lacks a field or contradicts itself.
    """
    from transformers import AutoConfig

    with config_errors():
        if isinstance(config, Mapping):
            check_plausible(config)
            with quiet_transformers():
                config = AutoConfig.for_model(**config)
            ignore_kernels(config)
        text: PreTrainedConfig = config.get_text_config(decoder=True)
        # A model with several parts has this key outside the text part.
        if (packed := getattr(config, "quantization_config", None)) is not None:
            text.quantization_config = packed
    return text


def check_supported(config: PreTrainedConfig | Mapping[str, Any] | SimpleNamespace) -> None:
    """Refuse a model whose config needs a feature that the engine does not implement.

    ``spec_from_config`` also checks the layers built from the config.

    Raises:
        UnsupportedModelError: the message names the feature and the config's key.
        ModelError: the config lacks a field that every supported model has.
    """
    text = plain_config(config)
    if getattr(text, "num_kv_shared_layers", None) and not hasattr(text, "kv_sharing_modes"):
        refuse("layers that share one KV cache", f"num_kv_shared_layers is {text.num_kv_shared_layers}")
    for key, feature in _UNSUPPORTED_FEATURES.items():
        if getattr(text, key, None) not in _OFF:
            refuse(feature, f"{key} is {getattr(text, key)}")
    if getattr(text, "is_causal", True) is False:
        refuse("bidirectional attention", "is_causal is False")
    if getattr(text, "position_embedding_type", None) in ("alibi", "relative_key", "relative_key_query"):
        refuse("position biases", f"position_embedding_type is {text.position_embedding_type}")
    types = sorted(set(declared(text, "layer_types") or ()))
    for kind in types:
        if kind not in LAYER_KINDS:
            refuse(f"layers of the kind {kind}", "layer_types names it")
    if {LAYER_KINDS[kind] for kind in types} == {"none"}:
        refuse("no layer with attention", "layer_types names none")
    if families.family_of(text) is None:
        _check_model_class(text)
    _check_shape_fields(text)


def _check_shape_fields(text: Any) -> None:
    """Refuse a config that lacks a dimension, or lists several values for one."""
    for key in (
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "vocab_size",
        "max_position_embeddings",
    ):
        if not getattr(text, key, None):
            raise ModelError(
                f"The model's configuration does not say its {key}.", "Use a decoder-only language model."
            )
    for layer in layer_configs(text):
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"):
            if isinstance(getattr(layer, key, None), (list, tuple)):
                refuse("layers of different shapes", f"{key} is a list")
        head_dim = getattr(layer, "head_dim", None)
        for key in ("global_head_dim", "v_head_dim"):
            if getattr(layer, key, None) not in (*_OFF, head_dim) and not is_latent(text):
                refuse("heads of different sizes", f"{key} is {getattr(layer, key)}")


def _check_model_class(text: PreTrainedConfig) -> None:
    """Refuse a class that does not generate text, or attends outside transformers' interface."""
    model_class = causal_model_class(text)
    # A model that names its layers keeps its states in transformers' own form; see ``_check_layers``.
    is_stateful = getattr(model_class, "_is_stateful", False)
    if is_stateful and not declared(text, "layer_types"):
        refuse("a recurrent state", f"{model_class.__name__} keeps one in a form of its own")
    if not is_stateful and not getattr(model_class, "_supports_attention_backend", False):
        refuse("an attention that cannot be replaced", f"{model_class.__name__} has its own")


def _check_layers(skeleton: nn.Module, spec: ModelSpec) -> None:
    """Compare the built attention layers with the spec."""
    layers = list(attention_layers(skeleton))
    if [layer.layer_idx for layer in layers] != spec.attending:
        refuse("an attention that cannot be replaced", f"{spec.architecture} has it in places of its own")
    for layer in layers:
        if spec.is_latent and type(layer).__name__ not in _LATENT:
            refuse("multi-head latent attention that lrqk was not tested with", type(layer).__name__)
        own = spec.of_sliding if spec.layer_kinds[cast(int, layer.layer_idx)] == "sliding" else spec
        key_width = own.num_kv_heads * own.head_dim
        if _ATTENTION_INTERFACE not in inspect.unwrap(type(layer).forward).__globals__:
            refuse("an attention that cannot be replaced", f"{type(layer).__name__} has its own")
        if getattr(layer, "is_causal", True) is False:
            refuse("bidirectional attention", f"{type(layer).__name__} is not causal")
        projection = getattr(layer, "k_proj", None)
        if projection is not None and projection.out_features != key_width:
            refuse("layers of different shapes", f"a layer makes keys of {projection.out_features} values")


def attention_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Return the attention module of every layer."""
    return (layer for layer in model.modules() if hasattr(layer, "layer_idx") and hasattr(layer, "is_causal"))
