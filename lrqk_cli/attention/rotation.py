"""What a model's RoPE does to a key that stands later in the text: it turns it by one fixed matrix.

Moving a token forward by Δ positions multiplies its rotated query and key by a matrix that depends on Δ alone
(Su et al., 2021). So sums over the tokens of one segment tell what the sums over the next will be, as far as
a text goes on as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lrqk_cli.config import ModelSpec

_EMBEDDING = "rotary_emb"
_APPLY = "apply_rotary_pos_emb"
# Frequencies that depend on the length of the text: there is no fixed turn.
_VARIABLE = frozenset({"dynamic", "longrope"})


class Rotation:
    """Finds a model's turns by applying its own functions to unit vectors, whatever its scaling of RoPE.

    Args:
        model: it is not changed.
        spec: its shape.
        modules: its attention modules, one a layer.
        distances: those that ``turn`` will be asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        spec: ModelSpec,
        modules: Sequence[nn.Module],
        distances: Sequence[int],
    ) -> None:
        found = [module for name, module in model.named_modules() if name.endswith(_EMBEDDING)]
        self._embedding = found[0] if len(found) == 1 else None
        self._config = model.config.get_text_config()
        self._width = spec.head_dim
        self._modules = modules
        self._found: dict[tuple[str | None, int], Tensor | None] = {}
        for layer in range(spec.num_layers):
            for distance in distances:
                if (key := (self._kind(layer), distance)) not in self._found:
                    self._found[key] = self._find(layer, *key)

    def turn(self, layer: int, distance: int) -> Tensor | None:
        """Return M, float64 ``[d, d]`` on the CPU: a key ``k`` of that layer is ``k M`` so much later.

        The identity where the layer has no RoPE; None where there is no such matrix, or it cannot be found.
        """
        with_rope = getattr(self._config, "no_rope_layers", None)
        if with_rope and not with_rope[layer]:
            return torch.eye(self._width, dtype=torch.float64)
        return self._found[self._kind(layer), distance]

    def _kind(self, layer: int) -> str | None:
        """Return what the embedding tells layers apart by."""
        if (
            self._embedding is None
            or "layer_type" not in inspect.signature(self._embedding.forward).parameters
        ):
            return None
        kind: str = self._config.layer_types[layer]
        return kind

    def _find(self, layer: int, kind: str | None, distance: int) -> Tensor | None:
        apply = inspect.unwrap(type(self._modules[layer]).forward).__globals__.get(_APPLY)
        if self._embedding is None or apply is None:
            return None
        types = getattr(self._embedding, "rope_type", None)
        if (types.get(kind) if isinstance(types, dict) else types) in _VARIABLE:
            return None
        return _turned(self._embedding, apply, () if kind is None else (kind,), distance, self._width)


@torch.no_grad()
def _turned(
    embedding: nn.Module,
    apply: Callable[..., tuple[Tensor, Tensor]],
    kind: tuple[str, ...],
    distance: int,
    width: int,
) -> Tensor | None:
    """Rotate unit vectors to positions 0 and ``distance``; the turn leads from the one to the other."""
    device = next(embedding.buffers()).device
    # Only its type and device count: in float32 the angles are not rounded.
    like = torch.zeros(1, device=device)
    unit = torch.eye(width, device=device).view(1, width, 1, width).expand(1, width, 2, width)
    try:
        cosine, sine = embedding(like, torch.tensor([[0, distance]], device=device), *kind)
        rotated, _ = apply(unit, unit, cosine, sine)
    except (RuntimeError, TypeError, ValueError):
        return None
    first, later = rotated[0].double().cpu().unbind(1)
    # At position 0 nothing is turned, but some scalings of RoPE lengthen what they rotate.
    turn: Tensor = torch.linalg.solve(first, later)
    return turn


class Growth(NamedTuple):
    """How much of a text is still to come, in segments as long as the newest.

    Attributes:
        tokens: how many are to come; ``segment``: how many the newest segment has.
        shares: of each coming segment, the part that there will be: 1, or less for the last.
        turns: of each coming segment, what leads to it from the newest, ``[d, d]``.
    """

    tokens: int
    segment: int
    shares: tuple[float, ...]
    turns: tuple[Tensor, ...]


def growth(rotation: Rotation, layer: int, coming: int, segment: int) -> Growth | None:
    """Return what the ``coming`` tokens after a layer's newest ``segment`` are; None if it is not known."""
    shares, turns = list[float](), list[Tensor]()
    for done in range(0, coming, segment):
        turn = rotation.turn(layer, done + segment)
        if turn is None:
            return None
        shares.append(min(segment, coming - done) / segment)
        turns.append(turn)
    return Growth(coming, segment, tuple(shares), tuple(turns))
