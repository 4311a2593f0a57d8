"""Attention over parts of the rows, merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decode_step import DEVICES, assert_same, to
from torch import Tensor

from lrqk_cli.kernels.merge import reference

kernel = pytest.importorskip("lrqk_cli.kernels.merge.triton", reason="Triton is not installed")


def side(seed: int, dtype: torch.dtype, shape: tuple[int, int, int, int], order: tuple[int, ...]) -> Any:
    """Return an output whose dimensions lie in memory in that order, and a log-sum-exp with empty places."""
    random = torch.Generator().manual_seed(seed)
    output = torch.randn([shape[i] for i in order], generator=random).to(dtype)
    lse = torch.randn(shape[:3], generator=random) * 4
    lse[torch.rand(lse.shape, generator=random) < 0.2] = float("-inf")
    output = output.permute([order.index(i) for i in range(4)])
    return output.masked_fill((lse == float("-inf")).unsqueeze(-1), 0.0), lse


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (2, 3, 63, 80), (3, 7, 130, 96), (1, 8, 33, 256)], ids=str)
def test_matches_the_reference(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> None:
    one, other = side(1, torch.float32, shape, (0, 1, 2, 3)), side(2, dtype, shape, (2, 0, 1, 3))
    expected = reference.merge(*one, *other)
    for pair in ((one, other), (other, one)):
        found = kernel.merge(*(to(tensor, device) for part in pair for tensor in part))
        assert_same(found, expected, atol=1e-5, rtol=1e-5)
    third = side(3, dtype, shape, (2, 0, 1, 3))
    expected = reference.merge(*expected, *third)
    found = kernel.merge(*to((*one, *other), device), to(third, device))
    assert_same(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("parts", [2, 3])
def test_a_merged_output_takes_more_parts_in_place(parts: int, device: str) -> None:
    shape, order = (2, 3, 63, 80), (2, 0, 1, 3)
    one, other, *rest = (side(seed, torch.bfloat16, shape, order) for seed in range(1, parts + 2))
    for module, place in ((reference, "cpu"), (kernel, device)):
        output, lse = module.merge(*to((*one, *other), place))
        added = to(tuple(rest), place)
        expected = module.merge(output, lse, *added[0], *added[1:])
        assert not torch.equal(expected[0], output)
        found = module.merge(output, lse, *added[0], *added[1:], in_place=True)
        assert found[0].data_ptr() == output.data_ptr()
        assert_same(found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1e4, 1e8, -1e8])
def test_shares_add_up_to_one_where_log_sum_exps_are_large(size: float, device: str) -> None:
    output, lse = torch.ones(1, 1, 3, 64), torch.full((1, 1, 3), size)
    for module, place in ((reference, "cpu"), (kernel, device)):
        merged, total = module.merge(*to((output, lse, output, lse), place))
        assert_same(merged, output, atol=1e-6)
        assert_same(total, lse, rtol=1e-4)


def test_the_reference_matches_the_definition() -> None:
    logits = torch.randn(1, 1, 5, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value = torch.randn(9, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def attend(rows: slice) -> tuple[Tensor, Tensor]:
        part = logits[..., rows]
        return (part.softmax(-1) @ value[rows]).float(), part.logsumexp(-1).float()

    merged = reference.merge(*attend(slice(0, 3)), *attend(slice(3, 9)))
    assert_same(merged, attend(slice(0, 9)), atol=1e-6, rtol=1e-6)
    merged = reference.merge(*attend(slice(0, 3)), *attend(slice(3, 5)), attend(slice(5, 9)))
    assert_same(merged, attend(slice(0, 9)), atol=1e-6, rtol=1e-6)
