"""Made-up queries, keys and values for a cache without a model, the same for a token wherever it is fed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.model_spec import ModelSpec

PARAMS = AttentionParams(scaling=0.4)


def two_layers(width: int) -> ModelSpec:
    """Return the shape of a model with two layers, of two KV heads that serve three query heads each."""
    return ModelSpec("tiny", "Tiny", ("full",) * 2, 6, 2, width, 32, 48, 97, 2048, 2048, 10_000)


def row(spec: ModelSpec, token: int, layer: int, name: str, seed: int = 0) -> Tensor:
    """Query, key or value of a token, ``[heads, 1, d]``; rejected drafts have another seed."""
    generator = torch.Generator().manual_seed(hash((token, layer, name == "query", name == "key", seed)))
    heads = spec.num_heads if name == "query" else spec.num_kv_heads
    return torch.randn(heads, 1, spec.head_dim, generator=generator)


def rows(
    spec: ModelSpec, tokens: Sequence[int], layer: int, name: str, wrong_from: int | None = None
) -> Tensor:
    """These rows of some tokens, ``[heads, S, d]``; those from ``wrong_from`` on are others."""
    found = [row(spec, 0, layer, name)[:, :0]]
    for token in tokens:
        found.append(row(spec, token, layer, name, int(wrong_from is not None and token >= wrong_from)))
    return torch.cat(found, 1)


def feed(
    cache: LrqkCache, tokens: Sequence[int], wrong_from: int | None = None, params: AttentionParams = PARAMS
) -> list[Tensor]:
    """Attend with tokens in all layers; return the outputs ``[KV, G, S, d]``."""
    spec, found, names = cache.spec, [], ("query", "key", "value")
    for layer in range(spec.num_layers):
        query, key, value = (rows(spec, tokens, layer, name, wrong_from) for name in names)
        found.append(cache.attend(layer, query.unflatten(0, (spec.num_kv_heads, -1)), key, value, params))
    return found


def verify(cache: LrqkCache, accepted: int) -> list[Tensor]:
    """Run a verify step, and accept its first drafts; the others are not the tokens of the text."""
    first, drafts = cache.position.length, cache.draft_tokens
    with cache.verifying():
        found = feed(cache, range(first, first + 1 + drafts), first + 1 + accepted)
    for _ in range(accepted):
        cache.accept_draft()
    return found
