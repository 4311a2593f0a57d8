"""Rows scaled by their root mean square."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, assert_same, poisoned, to

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
