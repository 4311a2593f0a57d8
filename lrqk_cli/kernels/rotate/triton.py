"""The same in one launch, one program per head."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rotate(
    query,
    key,
    cosine,
    sine,
    out_query,
    out_key,
    heads,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
):
    head = tl.program_id(0)
    dim = tl.arange(0, HALF_PAD)
    inside = dim < HALF
    if head < heads:
        source = query + head * (2 * HALF)
        target = out_query + head * (2 * HALF)
    else:
        source = key + (head - heads) * (2 * HALF)
        target = out_key + (head - heads) * (2 * HALF)
    first = tl.load(source + dim, mask=inside).to(tl.float32)
    second = tl.load(source + HALF + dim, mask=inside).to(tl.float32)
    low = first * tl.load(cosine + dim, mask=inside).to(tl.float32)
    low -= second * tl.load(sine + dim, mask=inside).to(tl.float32)
    high = second * tl.load(cosine + HALF + dim, mask=inside).to(tl.float32)
    high += first * tl.load(sine + HALF + dim, mask=inside).to(tl.float32)
    tl.store(target + dim, low.to(out_query.dtype.element_ty), mask=inside)
    tl.store(target + HALF + dim, high.to(out_query.dtype.element_ty), mask=inside)


def rotate(
    query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, out_query: Tensor, out_key: Tensor
) -> None:
    """See the reference; all tensors are contiguous, and queries and keys have one dtype."""
    heads, width = query.shape
    _rotate[(heads + key.shape[0],)](
        query,
        key,
        cosine,
        sine,
        out_query,
        out_key,
        heads,
        HALF=width // 2,
        HALF_PAD=triton.next_power_of_2(width // 2),
        num_warps=1,
    )
