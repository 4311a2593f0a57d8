"""Vectors in fixed point."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, poisoned
from torch import Tensor

from lrqk_cli.kernels.fixed_point import reference
from lrqk_cli.kernels.fixed_point.reference import empty_fixed, numbers_of
from lrqk_cli.kernels.rms_norm import reference as norm_reference

kernel = pytest.importorskip("lrqk_cli.kernels.fixed_point.triton", reason="Triton is not installed")
norm_kernel = pytest.importorskip("lrqk_cli.kernels.rms_norm.triton", reason="Triton is not installed")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CPU = torch.device("cpu")


def vector(width: int, dtype: torch.dtype) -> Tensor:
    """Numbers of many sizes: zeros, huge ones, and a unit with an outlier."""
    random = torch.Generator().manual_seed(width)
    row = torch.randn(width, generator=random)
    row[:32] *= 1e-6
    row[3] = 50.0
    row[40:45] = 0.0
    row[-32:] = 0.0 if width > 64 else row[-32:]
    return row.to(dtype)


def in_fixed_point(row: Tensor) -> Tensor:
    out = empty_fixed(row.shape[0], row.dtype, CPU)
    reference.fixed_point(out, row)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_lost_is_a_share_of_the_largest(dtype: torch.dtype) -> None:
    row = vector(4096, dtype)
    found = numbers_of(in_fixed_point(row)).double()
    largest = row.double().view(-1, 32).abs().amax(1, keepdim=True).expand(-1, 32).flatten()
    bits = 16 if dtype == torch.bfloat16 else 24
    assert ((found - row.double()).abs() <= largest * 2.0 ** (1 - bits)).all()


def test_nothing_of_a_bfloat16_is_lost_near_the_largest() -> None:
    row = torch.randn(4096, generator=torch.Generator().manual_seed(3)).bfloat16()
    found = numbers_of(in_fixed_point(row))
    largest = row.float().view(-1, 32).abs().amax(1, keepdim=True).expand(-1, 32).flatten()
    near = row.float().abs() >= largest / 128
    assert near.float().mean() > 0.9
    assert torch.equal(found[near], row.float()[near])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 576, 896, 4096])
def test_matches_the_reference(width: int, dtype: torch.dtype, device: str) -> None:
    row = vector(width, dtype)
    expected = in_fixed_point(row)
    found = torch.full_like(expected, -1).to(device)
    kernel.fixed_point(found, row.to(device))
    planes = reference.planes_in(expected)
    assert torch.equal(found[-1].cpu(), expected[-1])
    # A number between two integers may go either way.
    difference = (numbers_of(found.cpu()) - numbers_of(expected)).view(-1, 32).abs()
    assert (difference <= expected[-1].view(torch.float32)[:, None]).all()
    integers = (numbers_of(found.cpu()).view(-1, 32) / found[-1].cpu().view(torch.float32)[:, None]).round()
    halves = integers.int().unflatten(1, (2, -1)).sum(2, dtype=torch.int32)
    assert torch.equal(found[8 * planes : -1].cpu(), halves.mT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [96, 768])
def test_several_vectors_are_written_side_by_side(width: int, device: str) -> None:
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(2)).bfloat16()
    for module, place in ((reference, "cpu"), (kernel, device)):
        found = torch.full_like(empty_fixed(width, rows.dtype, CPU, 3), -1).to(place)
        module.fixed_point(found, rows.to(place))
        for vector_, row in zip(found.cpu(), rows, strict=True):
            # A number between two integers may go either way.
            difference = (numbers_of(vector_) - numbers_of(in_fixed_point(row))).view(-1, 32).abs()
            assert (difference <= vector_[-1].view(torch.float32)[:, None]).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(wrong: float, device: str) -> None:
    row = torch.ones(64)
    row[40] = wrong
    out = empty_fixed(64, row.dtype, torch.device(device))
    kernel.fixed_point(out, row.to(device))
    numbers = numbers_of(out.cpu())
    assert torch.equal(numbers[:32], row[:32])
    assert numbers[32:].isnan().all()
    assert numbers_of(in_fixed_point(row))[32:].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 896, 4096])
def test_a_norm_writes_its_result_in_fixed_point_too(width: int, dtype: torch.dtype, device: str) -> None:
    row, weight = vector(width, dtype)[None], torch.linspace(0.5, 1.5, width).to(dtype)
    options = {"eps": 1e-5, "offset": 0.0, "rounds_first": True}
    expected = empty_fixed(width, dtype, CPU)
    norm_reference.rms_norm(row, weight, torch.empty_like(row), **options, fixed=expected)
    out = poisoned(torch.empty_like(row)).to(device)
    fixed = empty_fixed(width, dtype, torch.device(device))
    norm_kernel.rms_norm(row.to(device), weight.to(device), out, **options, fixed=fixed)
    again = torch.empty_like(fixed)
    kernel.fixed_point(again, out[0])
    assert torch.equal(fixed, again)
    rounding = 3 * torch.finfo(dtype).eps
    size = numbers_of(expected).abs().max()
    assert (numbers_of(fixed.cpu()) - numbers_of(expected)).abs().max() <= rounding * size
