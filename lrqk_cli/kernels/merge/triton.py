"""The same in one launch; it reads all outputs once, with any strides, and writes the result once.

The flash kernel returns an output token by token, and plain attention query by query of a group. The result
is stored token by token, as the model needs it. A program reads its part of all outputs before it writes, so
the result may take the place of one that is stored so.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Output elements per program.
_TILE = 4096


@triton.jit
def _load_output(output, token, dim, mask, head_stride, member_stride, token_stride, group):
    query = tl.program_id(1).to(tl.int64)
    place = output + query // group * head_stride + query % group * member_stride
    return tl.load(place + token[:, None] * token_stride + dim, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _merge(
    output,
    lse,
    other_output,
    other_lse,
    third_output,
    third_lse,
    merged,
    total,
    group,
    length,
    head_stride,
    member_stride,
    token_stride,
    other_head_stride,
    other_member_stride,
    other_token_stride,
    third_head_stride,
    third_member_stride,
    third_token_stride,
    WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    THREE: tl.constexpr,
):
    query = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token_mask = token < length
    dim = tl.arange(0, WIDTH_PAD)[None, :]
    mask = token_mask[:, None] & (dim < WIDTH)
    own_lse = tl.load(lse + query * length + token, mask=token_mask, other=0.0)
    added_lse = tl.load(other_lse + query * length + token, mask=token_mask, other=0.0)
    peak = tl.maximum(own_lse, added_lse)
    if THREE:
        last_lse = tl.load(third_lse + query * length + token, mask=token_mask, other=0.0)
        peak = tl.maximum(peak, last_lse)
    # If no side has rows, subtracting minus infinity from itself would give NaN.
    base = tl.where(peak == float("-inf"), 0.0, peak)
    own_mass, added_mass = tl.exp(own_lse - base), tl.exp(added_lse - base)
    mass = own_mass + added_mass
    if THREE:
        last_mass = tl.exp(last_lse - base)
        mass += last_mass
    mass = tl.maximum(mass, 1e-37)
    own = _load_output(output, token, dim, mask, head_stride, member_stride, token_stride, group)
    added = _load_output(
        other_output, token, dim, mask, other_head_stride, other_member_stride, other_token_stride, group
    )
    result = own * (own_mass / mass)[:, None] + added * (added_mass / mass)[:, None]
    if THREE:
        last = _load_output(
            third_output, token, dim, mask, third_head_stride, third_member_stride, third_token_stride, group
        )
        result += last * (last_mass / mass)[:, None]
    target = merged + (token[:, None] * tl.num_programs(1) + query) * WIDTH + dim
    tl.store(target, result, mask=mask)
    tl.store(
        total + query * length + token, tl.where(peak == base, base + tl.log(mass), peak), mask=token_mask
    )


def merge(
    output: Tensor,
    lse: Tensor,
    other_output: Tensor,
    other_lse: Tensor,
    third: tuple[Tensor, Tensor] | None = None,
    *,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """See the reference; the last dimension of the outputs is contiguous, and so are the log-sum-exps."""
    heads, group, length, width = output.shape
    if in_place:
        assert output.dtype == torch.float32
        assert output.permute(2, 0, 1, 3).is_contiguous()
        merged = output
    else:
        merged = torch.empty(length, heads, group, width, device=output.device).permute(1, 2, 0, 3)
    total = torch.empty_like(lse)
    width_pad = triton.next_power_of_2(width)
    block = max(1, _TILE // width_pad)
    # Without a third part the second takes its place, and is not read there.
    third_output, third_lse = (other_output, other_lse) if third is None else third
    _merge[(triton.cdiv(length, block), heads * group)](
        output,
        lse,
        other_output,
        other_lse,
        third_output,
        third_lse,
        merged,
        total,
        group,
        length,
        *output.stride()[:3],
        *other_output.stride()[:3],
        *third_output.stride()[:3],
        WIDTH=width,
        WIDTH_PAD=width_pad,
        BLOCK=block,
        THREE=third is not None,
        num_warps=4,
    )
    return merged, total
