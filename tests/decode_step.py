"""A layer in the middle of decoding, in the tensors that the kernels of a step take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from lrqk_cli.config import KvDtype
from lrqk_cli.kernels.buffers import (
    FetchPlan,
    IndexMaps,
    Projected,
    Residents,
    RowScales,
    StoredRows,
    Tail,
    TokenScores,
)
from lrqk_cli.kernels.codes import pack_codes
from lrqk_cli.kernels.quantise_rows.reference import quantise_rows
from lrqk_cli.kernels.score_tokens import reference as score_tokens_reference
from lrqk_cli.memory.accounting import SCALE_TOKENS

_Tree = TypeVar("_Tree")

# Kernels run compiled where there is a GPU, and in Triton's interpreter elsewhere (see conftest.py).
DEVICES = [
    pytest.param(
        "cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU here")
    ),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer with ``length`` tokens; the letters are those of ``kernels.buffers``."""

    length: int
    context: int = 300
    heads: int = 2
    share: int = 1
    queries: int = 2
    width: int = 64
    rank: int = 8
    hot: int = 24
    recent: int = 8

    @property
    def sets(self) -> int:
        return self.heads * self.share

    @property
    def rows(self) -> int:
        return self.recent + self.hot

    @property
    def device_length(self) -> Tensor:
        return torch.tensor([self.length])


def noise(seed: int, *shape: int) -> Tensor:
    """Return multiples of 1/4 in [-2, 2): sums of their products are exact in float32, in any order."""
    return torch.randint(-8, 8, shape, generator=torch.Generator().manual_seed(seed)) / 4


def make_store(shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the rows of ``length`` tokens; the rest of the store is poisoned."""
    rows = noise(1, shape.heads, shape.context, 2, shape.width).to(dtype)
    rows[:, shape.length :] = float("nan")
    return rows


def make_residents(shape: Shape, store: Tensor, seed: int = 2) -> Residents:
    """Return the ring and a hot set of ``length`` tokens, with a random choice once they do not all fit."""
    rows = torch.full((shape.sets, shape.rows, 2, shape.width), float("nan"), dtype=store.dtype)
    slot_token = torch.full((shape.sets, shape.hot), -1)
    resident = torch.zeros(shape.sets, shape.context, dtype=torch.bool)
    for token in range(max(0, shape.length - shape.recent), shape.length):
        rows[:, token % shape.recent] = store[:, token].repeat_interleave(shape.share, 0)
    candidates = max(0, shape.length - shape.recent)
    generator = torch.Generator().manual_seed(seed)
    for row_set in range(shape.sets):
        chosen = torch.arange(candidates)
        if candidates > shape.hot:
            chosen = torch.randperm(candidates, generator=generator)[: shape.hot]
        slot_token[row_set, : len(chosen)] = chosen
        resident[row_set, chosen] = True
        rows[row_set, shape.recent : shape.recent + len(chosen)] = store[row_set // shape.share, chosen]
    return Residents(rows, slot_token, resident)


def make_layer(shape: Shape, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Residents]:
    """Return store and residents as they are within a step, with the step's token appended."""
    after = replace(shape, length=shape.length + 1)
    store = make_store(after, dtype)
    return store, make_residents(after, store)


def make_plan(shape: Shape, residents: Residents, seed: int = 0) -> FetchPlan:
    """Plan random fetches, in every set a different number: none, all slots, and between."""
    plan = poisoned(FetchPlan.empty(shape.sets, shape.hot, torch.device("cpu")))
    plan.leaving.zero_()
    random = torch.Generator().manual_seed(seed)
    candidates = shape.length + 1 - shape.recent
    for row_set in range(shape.sets):
        absent = (~residents.resident[row_set, :candidates]).nonzero().flatten()
        most = min(shape.hot, len(absent))
        count = [most, 0, max(1, most // 3)][(row_set + seed) % 3]
        plan.token[row_set, :count] = absent[torch.randperm(len(absent), generator=random)][:count].int()
        plan.slot[row_set, :count] = torch.randperm(shape.hot, generator=random)[:count].int()
        plan.counts[row_set] = count
        plan.leaving[row_set, plan.slot[row_set, :count].long()] = True
    return plan


def make_maps(shape: Shape) -> IndexMaps:
    """Return maps whose results are exact in float32."""
    random = torch.Generator().manual_seed(6)
    return IndexMaps(
        noise(3, shape.sets, shape.width, shape.rank),
        noise(4, shape.sets, shape.width, shape.rank),
        noise(5, shape.heads, shape.width),
        2.0 ** torch.randint(-3, 2, (shape.sets, shape.rank), generator=random),
    )


def make_index(shape: Shape, dtype: torch.dtype = torch.int8) -> tuple[Projected, Tensor]:
    """Return projected queries and an index; uint8 is a packed one."""
    projected = Projected(
        noise(7, shape.sets, shape.queries, shape.rank), noise(8, shape.sets, shape.queries)
    )
    codes = noise(9, shape.sets, shape.context, shape.rank) * 4
    return projected, pack_codes(codes) if dtype == torch.uint8 else codes.to(dtype)


def make_scores(shape: Shape, scaling: float = 0.1, dtype: torch.dtype = torch.int8) -> TokenScores:
    """Return scores by the reference, poisoned past n."""
    projected, codes = make_index(shape, dtype)
    scores = poisoned(
        TokenScores.empty(shape.sets, shape.queries, shape.context, torch.device("cpu"), tail_rank=shape.rank)
    )
    resident = make_layer(shape)[1].resident
    score_tokens_reference.score_tokens(
        projected, codes, resident, shape.device_length, scores, recent=shape.recent, scaling=scaling
    )
    return scores


def make_tail(shape: Shape, dtype: torch.dtype = torch.int8, scaling: float = 0.1) -> Tail:
    """Return a linear tail by the reference's scores."""
    return Tail(
        make_scores(shape, scaling, dtype),
        make_index(shape, dtype)[1],
        noise(13, shape.sets, shape.rank, shape.width) / 8,
        noise(14, shape.sets, shape.width),
    )


def poisoned(tree: _Tree) -> _Tree:
    """Fill tensors with NaN, integers with -7."""
    for tensor in tree if isinstance(tree, tuple) else (tree,):
        if tensor is not None:
            tensor.fill_(float("nan") if tensor.dtype.is_floating_point else -7)
    return tree


def to(tree: _Tree, device: str) -> _Tree:
    """Copy a tensor, or a tuple or dictionary of tensors, to the device; other values stay."""
    if isinstance(tree, Tensor):
        return tree.to(device, copy=True)
    if isinstance(tree, dict):
        return {name: to(value, device) for name, value in tree.items()}
    if isinstance(tree, tuple):
        values = [to(value, device) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    return tree


def host(store: Tensor, device: str) -> Tensor:
    """Copy a store to where it stands: in memory that the device can read by itself."""
    return store.pin_memory() if device == "cuda" else store.clone()


def stored(store: Tensor, device: str, kv_dtype: KvDtype = "bf16") -> StoredRows:
    """Return a store ``[KV, context, 2, d]`` as kernels take it, with its rows as they are or in 8 bits.

    The spreads are powers of two, and the centres short: reading back is exact in float32.
    """
    if kv_dtype == "bf16":
        return StoredRows(host(store, device))
    heads, context, _, width = store.shape
    shape = heads, -(-context // SCALE_TOKENS), 2, width
    spread = 2.0 ** torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(15))
    scales = RowScales(torch.stack((noise(16, *shape), spread), 2).bfloat16(), kv_dtype)
    rows = torch.empty(heads, context, 2 * width + 4, dtype=torch.uint8)
    quantise_rows(*store.nan_to_num().unbind(2), StoredRows(rows, scales))
    return StoredRows(host(rows, device), to(scales, device))


def wait_for_kernels() -> None:
    """Wait until kernels have written what they store in host memory, which a read by the CPU does not."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def assert_same(found: Any, expected: Any, *, atol: float = 0.0, rtol: float = 0.0) -> None:
    """Compare tensors, or tuples of them, wherever they are; poison equals poison."""
    if isinstance(expected, tuple):
        for pair in zip(found, expected, strict=True):
            assert_same(*pair, atol=atol, rtol=rtol)
    elif expected is None:
        assert found is None
    else:
        wait_for_kernels()
        torch.testing.assert_close(found.cpu(), expected.cpu(), atol=atol, rtol=rtol, equal_nan=True)
