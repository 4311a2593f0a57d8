"""Packing of index codes."""

from __future__ import annotations

import pytest
import torch

from lrqk_cli.kernels.codes import pack_codes, unpack_codes


@pytest.mark.parametrize("rank", [2, 6, 64])
def test_packed_codes_come_back(rank: int) -> None:
    codes = torch.randint(-8, 8, (3, 5, rank), generator=torch.Generator().manual_seed(rank)).float()
    packed = pack_codes(codes)
    assert packed.dtype == torch.uint8
    assert packed.shape == (3, 5, rank // 2)
    assert torch.equal(unpack_codes(packed), codes)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_plain_codes_pass(dtype: torch.dtype) -> None:
    codes = torch.tensor([[-127.0, 3.0, 0.5 if dtype.is_floating_point else 0.0]]).to(dtype)
    assert torch.equal(unpack_codes(codes), codes.float())
