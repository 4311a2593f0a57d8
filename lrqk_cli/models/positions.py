"""The tokens that the positions of a model reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def context_limit(text: Any) -> int:
    """The tokens that the model's positions reach.

    ``max_position_embeddings`` includes RoPE scaling from training, but not YaRN that was switched on later.
    LongRoPE and dynamic NTK change all frequencies once a text exceeds a length; keys in the cache cannot
    follow, so such a model is served up to that length only.
    """
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    limit: int = text.max_position_embeddings
    for rope in nested or [parameters]:
        original = rope.get("original_max_position_embeddings") or text.max_position_embeddings
        if rope.get("rope_type") == "yarn":
            limit = max(limit, int(original * (rope.get("factor") or 1.0)))
        elif rope.get("rope_type") == "longrope":
            limit = min(limit, original)
    return limit
