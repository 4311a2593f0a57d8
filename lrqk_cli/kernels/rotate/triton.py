"""The same in one launch, one program per head and token."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before


@triton.jit
def _rotate(
    query,
    key,
    cosine,
    sine,
    out_query,
    out_key,
    heads,
    query_stride,
    query_token_stride,
    key_stride,
    key_token_stride,
    HALF: tl.constexpr,
    HALF_PAD: tl.constexpr,
):
    await_launch_before()
    head = tl.program_id(0)
    token = tl.program_id(1)
    tokens = tl.num_programs(1)
    dim = tl.arange(0, HALF_PAD)
    inside = dim < HALF
    cosine += token * (2 * HALF)
    sine += token * (2 * HALF)
    if head < heads:
        source = query + head * query_stride + token * query_token_stride
        target = out_query + (head * tokens + token) * (2 * HALF)
    else:
        source = key + (head - heads) * key_stride + token * key_token_stride
        target = out_key + ((head - heads) * tokens + token) * (2 * HALF)
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
    """See the reference; queries and keys have one dtype, and all but they are contiguous."""
    heads, tokens, width = query.shape
    _rotate[(heads + key.shape[0], tokens)](
        query,
        key,
        cosine,
        sine,
        out_query,
        out_key,
        heads,
        *query.stride()[:2],
        *key.stride()[:2],
        HALF=width // 2,
        HALF_PAD=triton.next_power_of_2(width // 2),
        num_warps=1,
        **DEPENDENT,
    )
