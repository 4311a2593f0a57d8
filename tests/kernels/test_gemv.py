"""Products of a matrix with a single token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decode_step import DEVICES, assert_same, poisoned, to
from torch import Tensor

from lrqk_cli.kernels.gated_gemv import reference as gated_reference
from lrqk_cli.kernels.gemv import reference

kernel = pytest.importorskip("lrqk_cli.kernels.gemv.triton", reason="Triton is not installed")
gated_kernel = pytest.importorskip("lrqk_cli.kernels.gated_gemv.triton", reason="Triton is not installed")

SHAPES = [
    ((1,), 1),
    ((3,), 17),
    ((896, 64, 130), 896),
    ((130, 5), 1024),
    ((48,), 1500),
    ((9, 3, 3), 2100),
    ((515,), 64),
]
GATED_SHAPES = [(1, 1), (3, 17), (130, 1024), (48, 1500), (7, 2100), (515, 64)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_gemv_matches_the_reference(
    rows: tuple[int, ...], width: int, dtype: torch.dtype, has_bias: bool, device: str
) -> None:
    weights = tuple(numbers(n, count, width, dtype=dtype) / width**0.5 for n, count in enumerate(rows))
    # One matrix in the middle does without.
    biases = tuple(numbers(9, n, dtype=dtype) if has_bias and n != 64 else None for n in rows)
    row = numbers(3, width, dtype=dtype)
    expected = poisoned(torch.empty(sum(rows), dtype=dtype))
    found = to(expected, device)
    residual = numbers(4, sum(rows), dtype=dtype) if has_bias else None
    reference.gemv(weights, row, expected, biases=biases, residual=residual)
    kernel.gemv(
        to(weights, device),
        to(row, device),
        found,
        biases=to(biases, device),
        residual=None if residual is None else to(residual, device),
    )
    rounding = max(8 * torch.finfo(dtype).eps, 1e-5)
    assert_same(found, expected, atol=rounding, rtol=rounding)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), GATED_SHAPES)
def test_gated_gemv_matches_the_reference(
    rows: int, width: int, dtype: torch.dtype, activation: Any, device: str
) -> None:
    gate, up = (numbers(seed, rows, width, dtype=dtype) / width**0.5 * 4 for seed in (1, 2))
    row = numbers(3, width, dtype=dtype)
    expected = poisoned(torch.empty(rows, dtype=dtype))
    found = to(expected, device)
    gated_reference.gated_gemv(gate, up, row, expected, activation=activation)
    gated_kernel.gated_gemv(*to((gate, up, row), device), found, activation=activation)
    # The reference rounds both products first. A product adds up 1,024 terms in an order that suits the CPU,
    # and its rounding is multiplied by the other one, up to 40.
    rounding = max(16 * torch.finfo(dtype).eps, 5e-5)
    assert_same(found, expected, atol=rounding, rtol=rounding)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_large_gates_neither_overflow_nor_vanish(activation: Any) -> None:
    gate, up = torch.tensor([[200.0], [-200.0]]), torch.ones(2, 1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = poisoned(torch.empty(2, device=device))
    gated_kernel.gated_gemv(*to((gate, up, torch.ones(1)), device), out, activation=activation)
    assert_same(out, torch.tensor([200.0, 0.0]), atol=1e-30)
