"""Sums of the products of rows, for Gram matrices."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, assert_same, to
from torch import Tensor

from lrqk_cli.kernels.sum_products import reference

kernel = pytest.importorskip("lrqk_cli.kernels.sum_products.triton", reason="Triton is not installed")
SHAPES = [(1, 1, 1, 16), (2, 3, 130, 48), (3, 1, 257, 64), (1, 2, 70, 192), (8, 4, 65, 80), (200, 1, 5, 16)]


def rows(seed: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """Return rows token by token in memory, as models have them, beside others."""
    sets, members, count, width = shape
    random = torch.Generator().manual_seed(seed)
    both = torch.randn(count, sets, members, 2, width, generator=random).to(dtype)
    return both[..., 1, :].permute(1, 2, 0, 3)


def oracle(left: Tensor, right: Tensor, shifts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Add row by row in float64."""
    sets, members, count, width = left.shape
    product, total = torch.zeros(sets, width, width, dtype=torch.float64), torch.zeros(sets, width).double()
    for row_set in range(sets):
        for member in range(members):
            for row in range(count):
                one = left[row_set, member, row].double() - shifts[0][row_set].double()
                other = right[row_set, member, row].double() - shifts[1][row_set].double()
                product[row_set] += one[:, None] * other[None, :]
                total[row_set] += other
    return product, total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_oracle(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> None:
    left, right = rows(1, shape, dtype), rows(2, shape, dtype)
    random = torch.Generator().manual_seed(3)
    shift, other = torch.randn(2, shape[0], shape[3], generator=random)
    none = torch.zeros_like(shift)
    # A GPU rounds the factors of products to TF32, and the kernel shifted ones to their dtype.
    rounding = {torch.float32: 2.0**-10, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]
    for given, shifts in (((), (none, none)), ((shift,), (shift, none)), ((shift, other), (shift, other))):
        product, total = oracle(left, right, shifts)
        size = 4 * (shape[1] * shape[2]) ** 0.5
        for module, place in ((reference, "cpu"), (reference, device), (kernel, device)):
            exact = place == "cpu" and module is reference
            if place == "cpu" and module is kernel and dtype == torch.bfloat16:
                continue  # Triton's interpreter multiplies the bits of bfloat16 numbers
            found = module.sum_products(*to((left, right, *given), place))
            assert_same(found[0], product.float(), atol=size * (1e-6 if exact else 4 * rounding), rtol=1e-5)
            assert_same(found[1], total.float(), atol=size * 1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_of_16_bits_are_multiplied_exactly(device: str) -> None:
    """Without a shift nothing is rounded, so the sums of small whole numbers are exact."""
    random = torch.Generator().manual_seed(4)
    left, right = (torch.randint(-9, 9, (2, 2, 300, 48), generator=random).half() for _ in range(2))
    expected = reference.sum_products(left, right)
    assert_same(kernel.sum_products(*to((left, right), device)), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_sums_are_the_same_in_every_run(device: str) -> None:
    left = to(rows(5, (2, 2, 500, 64), torch.float16), device)
    assert_same(kernel.sum_products(left, left), kernel.sum_products(left, left))


@pytest.mark.parametrize("device", DEVICES)
def test_no_rows_give_zeros(device: str) -> None:
    empty = torch.empty(2, 1, 0, 16, dtype=torch.float16)
    for module in (reference, kernel):
        found = module.sum_products(*to((empty, empty), device))
        assert_same(found, (torch.zeros(2, 16, 16), torch.zeros(2, 16)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_more_than_16_bits_are_left_to_the_library(dtype: torch.dtype, device: str) -> None:
    left, shift = to((rows(6, (2, 3, 70, 128), dtype), torch.ones(2, 128)), device)
    assert_same(kernel.sum_products(left, left, shift), reference.sum_products(left, left, shift))
