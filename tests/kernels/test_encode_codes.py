"""Keys of the low-rank space, as codes of an index."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, assert_same, to

from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.encode_codes import reference

kernel = pytest.importorskip("lrqk_cli.kernels.encode_codes.triton", reason="Triton is not installed")


def new_index(sets: int, context: int, rank: int, dtype: torch.dtype) -> torch.Tensor:
    width = rank // 2 if dtype == torch.uint8 else rank
    return torch.full((sets, context, width), 99).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 63, 6), (3, 130, 64), (8, 70, 80), (2, 5, 128)], ids=str)
def test_matches_the_reference(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    """Into a part of an index, whose other tokens stay."""
    sets, tokens, rank = shape
    random = torch.Generator().manual_seed(rank)
    values = torch.randn(shape, generator=random) * 4
    values[:, 0, 0] = 1e9  # an outlier
    scale = torch.rand(sets, 1, rank, generator=random) + 0.1
    # On the edge between two codes.
    values[:, -1] = scale[:, 0] * 2.5
    expected = new_index(sets, tokens + 9, rank, dtype)
    found = to(expected, device)
    reference.encode_codes(values, scale, expected[:, 4 : 4 + tokens])
    kernel.encode_codes(*to((values, scale), device), found[:, 4 : 4 + tokens])
    # The interpreter cuts bfloat16 off where a GPU rounds.
    assert_same(found, expected, rtol=2**-7 if dtype == torch.bfloat16 and device == "cpu" else 0.0)


@pytest.mark.parametrize(("dtype", "top"), [(torch.uint8, 7), (torch.int8, 127)])
def test_codes_are_the_nearest_whole_numbers(dtype: torch.dtype, top: int) -> None:
    values = torch.tensor([[[0.24, 0.26, -0.25, 0.75, 1e9, -1e9]]])
    index = new_index(1, 1, 6, dtype)
    reference.encode_codes(values, torch.full((1, 1, 6), 0.5), index)
    assert unpack_codes(index)[0, 0].tolist() == [0.0, 1.0, 0.0, 2.0, top, -top]


def test_no_tokens_are_no_launch() -> None:
    for module in (reference, kernel):
        module.encode_codes(torch.empty(2, 0, 8), torch.ones(2, 1, 8), new_index(2, 0, 8, torch.int8))
