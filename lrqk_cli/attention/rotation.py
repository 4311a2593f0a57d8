"""The matrices by which a model's RoPE turns keys and queries at later positions.

Moving a token forward by Δ positions multiplies its rotated query and key by a matrix that depends on Δ alone
(Su et al., 2021). So the sums over one segment predict the sums over the next, if the text continues alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lrqk_cli.model_spec import ModelSpec

_EMBEDDINGS = ("rotary_emb", "pos_emb")
_APPLY = "apply_rotary_pos_emb"
# A key of some configurations, and its values for models without RoPE.
_POSITIONS, _NO_ROPE = "position_embedding_type", (None, "nope")
# Types of RoPE whose frequencies depend on the length of the text: no fixed matrix exists.
_VARIABLE = frozenset({"dynamic", "longrope"})


class Rotation:
    """Finds a model's turns by applying its own RoPE functions, with any scaling, to unit vectors.

    Args:
        model: a causal language model; not changed.
        spec: shape of the model.
        modules: the model's attention modules, by the numbers of their layers.
        distances: the distances, in tokens, that ``turn`` accepts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        spec: ModelSpec,
        modules: Mapping[int, nn.Module],
        distances: Sequence[int],
    ) -> None:
        found = [module for name, module in model.named_modules() if name.endswith(_EMBEDDINGS)]
        self._embedding = found[0] if len(found) == 1 else None
        self._config = model.config.get_text_config()
        self._spec = spec
        self._modules = modules
        self._found: dict[tuple[str | None, int], Tensor | None] = {}
        for layer in modules:
            for distance in distances:
                if (key := (self._kind(layer), distance)) not in self._found:
                    self._found[key] = self._find(layer, *key)

    def turn(self, layer: int, distance: int) -> Tensor | None:
        """Return M, float64 ``[d, d]`` on the CPU: a key ``k`` of the layer becomes ``k M`` at ``distance``.

        The identity if the layer has no RoPE; None if no such matrix exists or it cannot be found.
        """
        with_rope = getattr(self._config, "no_rope_layers", None)
        if with_rope and not with_rope[layer]:
            return torch.eye(self._spec.head_dim, dtype=torch.float64)
        return self._found[self._kind(layer), distance]

    def _kind(self, layer: int) -> str | None:
        """Return the layer type that the embedding takes as an argument; None if it takes none."""
        if (
            self._embedding is None
            or "layer_type" not in inspect.signature(self._embedding.forward).parameters
        ):
            return None
        kind: str = self._config.layer_types[layer]
        return kind

    def _find(self, layer: int, kind: str | None, distance: int) -> Tensor | None:
        spec, forward = self._spec, inspect.unwrap(type(self._modules[layer]).forward)
        width = (spec.of_sliding if spec.layer_kinds[layer] == "sliding" else spec).head_dim
        if self._embedding is None and (
            _APPLY not in forward.__code__.co_names or getattr(self._config, _POSITIONS, "rope") in _NO_ROPE
        ):
            return torch.eye(width, dtype=torch.float64)
        apply = forward.__globals__.get(_APPLY)
        # Of a compressed row only a part turns.
        if self._embedding is None or apply is None or spec.is_latent:
            return None
        types = getattr(self._embedding, "rope_type", None)
        if (types.get(kind) if isinstance(types, dict) else types) in _VARIABLE:
            return None
        return _turned(self._embedding, apply, () if kind is None else (kind,), distance, width)


@torch.no_grad()
def _turned(
    embedding: nn.Module,
    apply: Callable[..., Any],
    kind: tuple[str, ...],
    distance: int,
    width: int,
) -> Tensor | None:
    """Rotate unit vectors to positions 0 and ``distance``; return the matrix from one to the other."""
    device = next(embedding.buffers()).device
    # The embedding uses only its dtype and device; float32 keeps the angles precise.
    like = torch.zeros(1, device=device)
    unit = torch.eye(width, device=device).view(1, width, 1, width).expand(1, width, 2, width)
    try:
        cosine, sine = embedding(like, torch.tensor([[0, distance]], device=device), *kind)
        # Some models rotate query and key in one call, others each by itself.
        is_single = list(inspect.signature(apply).parameters)[1] == "cos"
        rotated = apply(unit, cosine, sine) if is_single else apply(unit, unit, cosine, sine)[0]
    except (RuntimeError, TypeError, ValueError):
        return None
    first, later = rotated[0].double().cpu().unbind(1)
    # At position 0 nothing is turned, but some scalings of RoPE change the vectors' length.
    turn: Tensor = torch.linalg.solve(first, later)
    return turn


class Growth(NamedTuple):
    """The coming tokens of a text, in segments as long as the newest.

    Attributes:
        tokens: number of coming tokens; ``segment``: tokens of the newest segment.
        shares: length of each coming segment relative to the newest: 1, or less for the last.
        turns: the matrix ``[d, d]`` from the newest segment to each coming one.
    """

    tokens: int
    segment: int
    shares: tuple[float, ...]
    turns: tuple[Tensor, ...]


def growth(rotation: Rotation, layer: int, coming: int, segment: int) -> Growth | None:
    """Return a layer's growth by ``coming`` tokens after its newest ``segment``; None without a turn."""
    shares, turns = list[float](), list[Tensor]()
    for done in range(0, coming, segment):
        turn = rotation.turn(layer, done + segment)
        if turn is None:
            return None
        shares.append(min(segment, coming - done) / segment)
        turns.append(turn)
    return Growth(coming, segment, tuple(shares), tuple(turns))
