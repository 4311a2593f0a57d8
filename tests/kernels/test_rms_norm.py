"""Rows scaled by their root mean square."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, assert_same, poisoned, to

from lrqk_cli.kernels.fixed_point.reference import empty_fixed, fixed_point, numbers_of
from lrqk_cli.kernels.rms_norm import reference

kernel = pytest.importorskip("lrqk_cli.kernels.rms_norm.triton", reason="Triton is not installed")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("offset", "rounds_first"), [(0.0, True), (0.0, False), (1.0, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 80), (1, 4096), (65, 896), (2, 5000)], ids=str)
def test_matches_the_reference(
    shape: tuple[int, int], dtype: torch.dtype, offset: float, rounds_first: bool, device: str
) -> None:
    random = torch.Generator().manual_seed(1)
    rows = (torch.randn(shape, generator=random) * 3 + 1).to(dtype)
    weight = torch.randn(shape[1], generator=random).to(dtype)
    options = {"eps": 1e-5, "offset": offset, "rounds_first": rounds_first}
    expected, found = poisoned(torch.empty_like(rows)), poisoned(to(torch.empty_like(rows), device))
    reference.rms_norm(rows, weight, expected, **options)
    kernel.rms_norm(to(rows, device), to(weight, device), found, **options)
    # Sums in another order may round a number to its neighbour, twice where it is rounded twice.
    rounding = 3 * torch.finfo(dtype).eps
    assert_same(found, expected, atol=rounding, rtol=rounding)


def test_the_reference_matches_the_definition() -> None:
    rows = torch.tensor([[3.0, -4.0, 0.0, 0.0]])
    out = torch.empty_like(rows)
    reference.rms_norm(rows, torch.ones(4), out, eps=0.0, offset=1.0, rounds_first=False)
    torch.testing.assert_close(out, rows / 2.5 * 2.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 4])
def test_rows_are_written_in_fixed_point_too(count: int, dtype: torch.dtype, device: str) -> None:
    width = 96
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    for module, place in ((reference, "cpu"), (kernel, device)):
        out = torch.empty(count, width, dtype=dtype, device=place)
        fixed = torch.full_like(empty_fixed(width, dtype, torch.device(place), count), -1)
        weight = torch.ones(width, dtype=dtype, device=place)
        module.rms_norm(rows.to(place), weight, out, eps=1e-5, offset=0.0, rounds_first=True, fixed=fixed)
        expected = empty_fixed(width, dtype, torch.device("cpu"), count)
        fixed_point(expected, out.cpu())
        # A number between two integers may go either way.
        for own, other in zip(fixed.cpu(), expected, strict=True):
            difference = (numbers_of(own) - numbers_of(other)).view(-1, 32).abs()
            assert (difference <= other[-1].view(torch.float32)[:, None]).all()
