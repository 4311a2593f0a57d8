"""The search of scales: its kernels against the reference, and that against every code there is."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, poisoned
from torch import Tensor

from lrqk_cli.kernels.fit_scales import reference
from lrqk_cli.kernels.fit_scales.reference import nearest_codes

kernel = pytest.importorskip("lrqk_cli.kernels.fit_scales.triton", reason="Triton is not installed")

KINDS = ["normal", "uniform", "outliers", "one-sided", "tiny", "equal", "zero"]


def groups_of(kind: str, count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    numbers = torch.randn(count, size, generator=generator) * 0.02
    if kind == "uniform":
        numbers = torch.rand(count, size, generator=generator) - 0.4
    elif kind == "outliers":
        numbers[:, 3] *= 30
    elif kind == "one-sided":
        numbers = numbers.abs() + 0.01
    elif kind == "tiny":
        numbers *= 1e-12
    elif kind == "equal":
        numbers = torch.full((count, size), 0.3)
    elif kind == "zero":
        numbers = torch.zeros(count, size)
    return numbers


def error_with_scale(groups: Tensor, scale: Tensor, zero: int) -> Tensor:
    numbers, s = groups.double(), scale.double()[:, None]
    return (s * nearest_codes(numbers, s, -zero, zero - 1) - numbers).square().sum(1)


def error_with_minimum(groups: Tensor, found: Tensor, most: int) -> Tensor:
    numbers, (s, m) = groups.double(), found.double().unsqueeze(2)
    weight = numbers.square().mean(1, keepdim=True).sqrt() + numbers.abs()
    return (weight * (s * nearest_codes(numbers - m, s, 0, most) + m - numbers).square()).sum(1)


def assert_as_good(found: Tensor, expected: Tensor, groups: Tensor) -> None:
    """Compare errors. Where two candidates are about as good, rounding decides, and codes differ then."""
    rounding = 1e-12 * groups.double().abs().pow(2).sum(1) * (1 + groups.abs().amax())
    assert found.sum() <= 1.005 * expected.sum() + rounding.sum()
    assert (found <= 1.25 * expected + rounding).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "size", "zero"), [(1, 32, 8), (200, 16, 32), (131, 32, 128)])
def test_a_scale_loses_as_little_as_the_references(
    count: int, size: int, zero: int, kind: str, device: str
) -> None:
    groups = groups_of(kind, count, size)
    expected, found = torch.empty(count), poisoned(torch.empty(count, device=device))
    reference.fit_scales(expected, groups, zero=zero)
    kernel.fit_scales(found, groups.to(device), zero=zero)
    assert_as_good(*(error_with_scale(groups, scale, zero) for scale in (found.cpu(), expected)), groups)
    assert (found.cpu() - expected).abs().sum() <= 0.02 * expected.abs().sum()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_most_zero", [True, False])
@pytest.mark.parametrize(("count", "most"), [(1, 15), (131, 31)])
def test_a_scale_and_a_minimum_lose_as_little_as_the_references(
    count: int, most: int, at_most_zero: bool, kind: str, device: str
) -> None:
    groups = groups_of(kind, count, 32)
    expected, found = torch.empty(2, count), poisoned(torch.empty(2, count, device=device))
    reference.fit_scales_and_minima(expected, groups, most=most, at_most_zero=at_most_zero)
    kernel.fit_scales_and_minima(found, groups.to(device), most=most, at_most_zero=at_most_zero)
    assert_as_good(*(error_with_minimum(groups, pair, most) for pair in (found.cpu(), expected)), groups)
    assert not at_most_zero or (found[1] <= 0).all()
    assert (found.cpu() - expected).abs().sum() <= 0.02 * expected.abs().sum()


@pytest.mark.parametrize("zero", [4, 8])
def test_few_scales_are_better(zero: int) -> None:
    # An oracle: a fine grid of scales, each with the codes that suit it best.
    groups = groups_of("normal", 64, 32)
    found = torch.empty(64)
    reference.fit_scales(found, groups, zero=zero)
    largest = groups.abs().amax(1)
    grid = torch.linspace(-1.3, 1.3, 2001)[:, None] * largest / zero
    best = torch.stack([error_with_scale(groups, scale, zero) for scale in grid]).amin(0)
    assert error_with_scale(groups, found, zero).sum() <= 1.05 * best.sum()
