"""Points that a cache can be taken back to, exactly: what has been said since is as if it had never been.

The rows of the store are only appended to, so they need no copy: a point holds the number of them, and host
copies of the little that changes in place. What a fit of the index determined is copied only when a later
fit is about to replace it, and once for all points that refer to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lrqk_cli.attention.unfinished import UnfinishedPrefill


class Copies:
    """Host copies of tensors, each of which can be put back in place."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._pairs = [(tensor, tensor.to("cpu", copy=True)) for tensor in tensors]

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(copy.nbytes for _, copy in self._pairs)

    def put_back(self) -> None:
        """Let the tensors hold again what they held when they were copied."""
        for tensor, copy in self._pairs:
            tensor.copy_(copy)


class Fit:
    """Stands for one fit of a layer's index: its maps, its scale, and the codes that they made.

    They are the layer's own while the fit is in force.

    Attributes:
        is_referenced: a point refers to it, so it must be kept when it is replaced.
    """

    def __init__(self) -> None:
        self.is_referenced = False
        self._kept: Copies | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of what was copied."""
        return self._kept.nbytes if self._kept is not None else 0

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Copy what the next fit overwrites, if a point refers to it."""
        if self.is_referenced:
            self._kept = Copies(tensors)

    def put_back(self) -> None:
        """Be in force again; nothing happens where it has never been replaced."""
        if self._kept is not None:
            self._kept.put_back()
            self._kept = None


@dataclass(frozen=True)
class LayerRewindPoint:
    """A point of a layer whose rows are all in its store: nothing was copied."""

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return 0


@dataclass(frozen=True)
class SlidingRewindPoint(LayerRewindPoint):
    """A point of a sliding-window layer, whose older rows are nowhere else.

    Attributes:
        rows: the used part of its ring.
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
        fit: the one in force; fitted: the tokens that it was made for.
        learned: what segments and steps have added up or adapted; observed: keys in those sums.
        slot_token: which tokens are hot, int32 ``[sets, C]`` in host memory; their rows are in the store.
        prefill: what the prefill had left to do, in host memory; None between decode steps.
    """

    fit: Fit
    fitted: int
    learned: Copies
    observed: int
    slot_token: Tensor
    prefill: UnfinishedPrefill | None

    @property
    def nbytes(self) -> int:
        """Bytes of the copies, and of its fit where that was replaced; other points may share these."""
        queries = 0 if self.prefill is None else self.prefill.nbytes
        return self.learned.nbytes + self.slot_token.nbytes + queries + self.fit.nbytes


# Compared by identity: two points may look alike, and only one be valid.
@dataclass(frozen=True, eq=False)
class CacheRewindPoint:
    """A point that a cache can be taken back to, until it is taken back beyond it or reset.

    Attributes:
        number: later points of a cache have higher numbers.
        length: tokens in the cache.
        layers: one point a layer.
    """

    number: int
    length: int
    layers: tuple[LayerRewindPoint, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that it takes."""
        return sum(layer.nbytes for layer in self.layers)
