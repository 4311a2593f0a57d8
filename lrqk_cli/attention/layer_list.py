"""The layers of a cache: making them, and the bytes of their tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrqk_cli import kernels
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.layers import AttentionLayer, FullLayer, NoAttention, SlidingLayer
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.position import Position
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import UsageError
from lrqk_cli.model_spec import ModelSpec

# Rows of a tensor-core tile: one per query.
_MOST_QUERIES = 16


def has_device_steps(spec: ModelSpec, config: LrqkConfig, device: torch.device) -> bool:
    """Return whether all layers of a cache with this configuration can have device steps."""
    is_served = spec.group_size <= _MOST_QUERIES and not spec.is_latent
    if device.type != "cuda" or not kernels.has_triton() or not is_served:
        return False
    if config.attention == "lrqk":
        return config.solver == "joint" and config.hot_policy != "refetch"
    return config.attention == "dense"


def make_layers(
    spec: ModelSpec,
    config: LrqkConfig,
    context: int,
    dtype: torch.dtype,
    device: torch.device,
    position: Position,
    *,
    may_page: bool = False,
) -> list[AttentionLayer]:
    """Return one empty layer per decoder layer, for ``context`` tokens.

    Args:
        config: ``config.attention`` chooses the class of full-attention layers.
        position: of the cache.
        may_page: see ``RowStore``.
    """
    if spec.is_latent and config.kv_dtype != "bf16":
        raise UsageError(
            f"Rows in {config.kv_dtype} are not supported with the compressed rows of this model.",
            "Use `kv_dtype` bf16, the default; these rows are small.",
        )
    made, is_dense = list[AttentionLayer](), config.attention == "dense"
    for number, kind in enumerate(spec.layer_kinds):
        if kind == "none":
            made.append(NoAttention(position))
            continue
        if kind == "sliding":
            assert spec.sliding_window is not None  # ModelSpec checks it
            made.append(SlidingLayer(spec.of_sliding, spec.sliding_window, dtype, device, position))
            continue
        owner = made[spec.row_owner(number)] if spec.row_owner(number) < number else None
        if isinstance(owner, FullLayer):
            store = owner.store.borrowed()
        else:
            store = RowStore(
                spec,
                context,
                dtype,
                device,
                on_device=is_dense,
                fetched=config.attention == "lrqk",
                kv_dtype=config.kv_dtype,
                may_page=may_page,
            )
        if config.attention == "lrqk":
            made.append(LrqkLayer(spec, config, context, dtype, store, position))
        else:
            made.append(FullLayer(spec, store, position))
    return made


def are_pageable(layers: Sequence[AttentionLayer]) -> bool:
    """Return whether rows of any layer are in pageable memory, where no kernel can read them."""
    return any(isinstance(layer, FullLayer) and layer.store.is_pageable for layer in layers)


def host_kv_bytes(layers: Sequence[AttentionLayer]) -> int:
    """Return the bytes of the rows of all tokens in host memory."""
    stores = [layer.store for layer in layers if isinstance(layer, FullLayer)]
    return sum(store.rows.nbytes for store in stores if not (store.on_device or store.is_borrowed))


def index_bytes(layers: Sequence[AttentionLayer]) -> int:
    """Return the bytes of the low-rank index."""
    return sum(layer.index.nbytes for layer in layers if isinstance(layer, LrqkLayer))


def hot_bytes(layers: Sequence[AttentionLayer]) -> int:
    """Return the bytes of hot rows and recent windows."""
    return sum(layer.hot.rows.nbytes for layer in layers if isinstance(layer, LrqkLayer))
