"""Points to which a cache can be rewound exactly.

The store only appends rows, so they need no copy: a point holds their number, and host copies of the small
state that changes in place. The tensors of a fit are copied only when a later fit replaces them, once for all
points that refer to the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lrqk_cli.attention.unfinished import UnfinishedPrefill


class Copies:
    """Copies of tensors, which can be restored in place.

    Args:
        on_host: copy to host memory, instead of beside the tensors.
    """

    def __init__(self, tensors: Iterable[Tensor], *, on_host: bool = True) -> None:
        self._pairs = [
            (tensor, tensor.to("cpu", copy=True) if on_host else tensor.clone()) for tensor in tensors
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(copy.nbytes for _, copy in self._pairs)

    def put_back(self) -> None:
        """Copy the contents back into the tensors."""
        for tensor, copy in self._pairs:
            tensor.copy_(copy)


class Fit:
    """One fit of a layer's index: its maps, its scale, and the resulting codes.

    While the fit is current, the layer holds these tensors, and the fit holds no copy.

    Attributes:
        is_referenced: a point refers to the fit, so its tensors must be copied when it is replaced.
    """

    def __init__(self) -> None:
        self.is_referenced = False
        self._kept: Copies | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the copies; 0 while the fit is current."""
        return self._kept.nbytes if self._kept is not None else 0

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Copy the tensors that the next fit overwrites, if a point refers to this fit."""
        if self.is_referenced:
            self._kept = Copies(tensors)

    def put_back(self) -> None:
        """Restore the fit from its copies; do nothing if it was never replaced."""
        if self._kept is not None:
            self._kept.put_back()
            self._kept = None


@dataclass(frozen=True)
class LayerRewindPoint:
    """A point of a layer whose rows are all in its store; it needs no copies."""

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return 0


@dataclass(frozen=True)
class SlidingRewindPoint(LayerRewindPoint):
    """A point of a sliding-window layer, whose rows are in its ring only.

    Attributes:
        rows: the used part of the ring.
    """

    rows: Copies

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return self.rows.nbytes


@dataclass(frozen=True)
class LrqkRewindPoint(LayerRewindPoint):
    """A point of an LRQK layer.

    Attributes:
        fit: the current fit; fitted: the number of tokens that it covers.
        learned: the projector's sums and adapted bases; observed: the number of keys in the sums.
        slot_token: the token in each hot slot, int32 ``[sets, C]`` in host memory; its row is in the store.
        prefill: the unfinished prefill, in host memory; None between decode steps.
    """

    fit: Fit
    fitted: int
    learned: Copies
    observed: int
    slot_token: Tensor
    prefill: UnfinishedPrefill | None

    @property
    def nbytes(self) -> int:
        """Bytes of the copies, with those of a replaced fit, which other points may share."""
        queries = 0 if self.prefill is None else self.prefill.nbytes
        return self.learned.nbytes + self.slot_token.nbytes + queries + self.fit.nbytes


@dataclass(frozen=True)
class StateRewindPoint:
    """A point of a layer's state.

    Attributes:
        in_use: whether it has read a token.
        copies: of its tensors.
    """

    in_use: bool
    copies: Copies


# Compared by identity: of two points with equal fields, only one may be valid.
@dataclass(frozen=True, eq=False)
class CacheRewindPoint:
    """A point to rewind to; valid until the cache is rewound to an earlier point or reset.

    Attributes:
        number: increases from point to point of a cache.
        length: tokens in the cache.
        layers: one point per layer; ``states``: one per layer's state.
    """

    number: int
    length: int
    layers: tuple[LayerRewindPoint, ...]
    states: tuple[StateRewindPoint, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that the point takes."""
        layers = sum(layer.nbytes for layer in self.layers)
        return layers + sum(state.copies.nbytes for state in self.states)
