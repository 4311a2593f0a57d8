"""The layers that a configuration describes: their kinds, their heads, and whose rows they use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lrqk_cli.model_spec import LAYER_KINDS, HeadShape, LayerKind
from lrqk_cli.models.failures import refuse
from lrqk_cli.models.quiet import quiet_transformers


def layer_kinds(text: Any) -> tuple[tuple[LayerKind, ...], int | None]:
    """The kind of every layer, and the width of the window; None without sliding layers."""
    window = declared(text, "sliding_window")
    named = declared(text, "layer_types")
    if named:
        kinds = tuple(LAYER_KINDS[kind] for kind in named)
    else:
        # Without layer_types, a window applies to every layer.
        kinds = ("sliding" if window else "full",) * text.num_hidden_layers
    return kinds, window if "sliding" in kinds else None


def head_shapes(text: Any, kinds: tuple[LayerKind, ...]) -> dict[LayerKind, HeadShape]:
    """Return the KV heads and the head size of each kind of layer that has attention."""
    if is_latent(text):
        return dict.fromkeys(kinds, HeadShape(1, text.kv_lora_rank + text.qk_rope_head_dim))
    found, layers = dict[LayerKind, HeadShape](), layer_configs(text)
    for number, kind in enumerate(kinds):
        shape = _heads(layers[number if len(layers) > 1 else 0], text.num_attention_heads)
        if kind != "none" and found.setdefault(kind, shape) != shape:
            refuse("layers of different shapes", f"not all {kind} layers have heads of one shape")
    return found


def _heads(layer: Any, heads: int) -> HeadShape:
    return HeadShape(
        getattr(layer, "num_key_value_heads", None) or heads,
        getattr(layer, "head_dim", None) or layer.hidden_size // heads,
    )


def is_latent(text: Any) -> bool:
    """Return whether attention works on compressed rows (multi-head latent attention)."""
    return bool(getattr(text, "kv_lora_rank", None))


def expanded_width(text: Any) -> int:
    """Return the numbers of a token that a layer of latent attention makes for its heads; 0 without it."""
    if not is_latent(text):
        return 0
    own: int = text.qk_nope_head_dim
    query = own + text.qk_rope_head_dim
    # Queries as they are made and as they are rotated, keys, and what keys and values are made of.
    width: int = 3 * query + own + text.v_head_dim
    return width * int(text.num_attention_heads)


def per_layer_width(text: Any) -> int:
    """Return the numbers of a token's inputs to all layers, beside its embedding; 0 without such inputs."""
    return int(getattr(text, "hidden_size_per_layer_input", 0) or 0) * int(text.num_hidden_layers)


def layer_configs(text: Any) -> tuple[Any, ...]:
    """Return the configuration of each layer if they differ, else the one of all."""
    return tuple(text.per_layer_config) if getattr(text, "is_heterogeneous", False) else (text,)


def row_owners(text: Any) -> tuple[int, ...]:
    """Return, by layer, which layer's K and V it uses; empty if all use their own."""
    modes = getattr(text, "kv_sharing_modes", None) or ()
    if "reuse" not in modes:
        return ()
    kinds = text.layer_types
    owners = {
        kind: number for number, (kind, mode) in enumerate(zip(kinds, modes, strict=True)) if mode == "store"
    }
    return tuple(
        owners[kind] if mode == "reuse" else number
        for number, (kind, mode) in enumerate(zip(kinds, modes, strict=True))
    )


def declared(text: Any, key: str) -> Any:
    """The value of a key that the config's class defines; transformers keeps other keys but ignores them."""
    if isinstance(text, SimpleNamespace):
        return getattr(text, key, None)
    with quiet_transformers():
        return getattr(text, key, None) if hasattr(type(text)(), key) else None


def intermediate_size(text: Any) -> int:
    """Return the inner size of the largest MLP of a layer."""
    size: int = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return 2 * size if getattr(text, "use_double_wide_mlp", False) else size
