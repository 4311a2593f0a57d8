"""Rotary position embedding of a few tokens."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, assert_same, poisoned, to
from torch import Tensor

from lrqk_cli.kernels.rotate import reference

kernel = pytest.importorskip("lrqk_cli.kernels.rotate.triton", reason="Triton is not installed")


def inputs(heads: int, kv_heads: int, width: int, dtype: torch.dtype, tokens: int = 1) -> tuple[Tensor, ...]:
    """Return queries and keys as models have them, token by token, and the angles."""
    random = torch.Generator().manual_seed(1)
    angle = torch.rand(tokens, width // 2, generator=random).mul(7).repeat(1, 2)
    rows = torch.randn(tokens, heads + kv_heads, width, generator=random).to(dtype).transpose(0, 1)
    return rows[:heads], rows[heads:], angle.cos().to(dtype), angle.sin().to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [2, 64, 80, 96, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads", "tokens"), [(1, 1, 1), (7, 1, 4), (32, 8, 1), (4, 2, 3)])
def test_matches_the_reference(
    heads: int, kv_heads: int, tokens: int, width: int, dtype: torch.dtype, device: str
) -> None:
    given = inputs(heads, kv_heads, width, dtype, tokens)
    expected = [poisoned(torch.empty(rows.shape, dtype=dtype)) for rows in given[:2]]
    found = [to(rows, device) for rows in expected]
    reference.rotate(*given, *expected)
    kernel.rotate(*(part.to(device) for part in given), *found)
    rounding = 2 * torch.finfo(dtype).eps
    assert_same(tuple(found), tuple(expected), atol=rounding, rtol=rounding)


def test_the_reference_is_a_rotation_of_complex_numbers() -> None:
    query, key, cosine, sine = inputs(3, 2, 16, torch.float64)
    out = torch.empty_like(query), torch.empty_like(key)
    reference.rotate(query, key, cosine, sine, *out)
    turn = torch.complex(cosine[:, :8], sine[:, :8])
    for rows, turned in zip((query, key), out, strict=True):
        expected = torch.complex(rows[..., :8], rows[..., 8:]) * turn
        assert_same(turned, torch.cat((expected.real, expected.imag), -1), atol=1e-6, rtol=1e-6)
