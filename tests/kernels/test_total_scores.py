"""Scores of all tokens for many queries at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from decode_step import DEVICES, Shape, assert_same, make_index, to
from torch import Tensor

from lrqk_cli.kernels.buffers import Projected
from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.total_scores import reference
from lrqk_cli.memory import activations

kernel = pytest.importorskip("lrqk_cli.kernels.total_scores.triton", reason="Triton is not installed")

SHAPES = [
    Shape(0, context=40, rank=32, queries=3),
    Shape(63, context=64, rank=64, queries=64, heads=1),
    Shape(64, context=70, rank=20, queries=65),
    Shape(1023, context=1100, rank=5, queries=17, heads=1),
    Shape(1500, context=1537, rank=64, queries=130, heads=2),
    Shape(2047, context=2048, rank=80, queries=9, heads=1),
    Shape(700, context=701, rank=128, queries=33, heads=1),
    Shape(90, context=100, rank=256, queries=40, heads=1),
    Shape(90, context=100, rank=576, queries=10, heads=1),
]
LARGE = Shape(70_000, context=1 << 17, rank=64, queries=224, heads=2)


def oracle(projected: Projected, codes: Tensor, length: int, softcap: float | None) -> Tensor:
    """Score in float64, query by query."""
    numbers = unpack_codes(codes[:, :length]).double()
    total = torch.zeros(numbers.shape[:2], dtype=torch.float64)
    for row_set, keys in enumerate(numbers):
        for query, offset in zip(projected.codes[row_set].double(), projected.offset[row_set], strict=True):
            logits = 0.125 * (keys @ query + float(offset))
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            weights = (logits - logits.max()).exp()
            total[row_set] += weights / weights.sum()
    return total


def scores(
    module: Any, projected: Projected, codes: Tensor, length: int, softcap: float | None, device: str
) -> Tensor:
    found: Tensor = module.total_scores(
        *to((projected, codes), device), length, scaling=0.125, softcap=softcap
    )
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bfloat16])
@pytest.mark.parametrize("shape", [*SHAPES, pytest.param(LARGE, marks=pytest.mark.gpu)], ids=str)
def test_scores_are_those_of_the_oracle(
    shape: Shape, dtype: torch.dtype, softcap: float | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == torch.uint8 and shape.rank % 2:
        pytest.skip("packed codes come in pairs")
    if shape is LARGE and device == "cpu":
        pytest.skip("takes the interpreter too long")
    monkeypatch.setattr(reference, "SCORE_CHUNK", 100)
    projected, codes = make_index(shape, dtype)
    random = torch.Generator().manual_seed(1)
    projected = Projected(torch.randn(projected.codes.shape, generator=random), projected.offset)
    length = shape.length + 1
    # A bfloat16 index has numbers that are not any beyond the text.
    if dtype == torch.bfloat16:
        codes[:, length:] = torch.nan
    expected = oracle(projected, codes, length, softcap).float()
    found = scores(kernel, projected, codes, length, softcap, device)
    # A logit has an error of some 2^-17, and a score that of its exponential.
    assert_same(found, expected, rtol=1e-4, atol=1e-9)
    assert_same(scores(kernel, projected, codes, length, softcap, device), found)
    if device == "cpu":
        assert_same(scores(reference, projected, codes, length, softcap, device), expected, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_tokens_far_below_the_others_have_a_score(device: str) -> None:
    """Logits of -400 to 400 overflow nothing; the scores of a query sum to one."""
    shape = Shape(1100, context=1200, rank=32, queries=20, heads=1)
    projected, codes = make_index(shape, torch.uint8)
    projected = Projected(projected.codes * 60.0, projected.offset * 60.0)
    found = scores(kernel, projected, codes, 1101, None, device)
    assert_same(found, oracle(projected, codes, 1101, None).float(), rtol=2e-3, atol=1e-6)
    assert_same(found.sum(1), torch.full((shape.sets,), 20.0), rtol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU here")
def test_its_tensors_are_within_the_planned_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(1499, context=1500, rank=200, queries=70, heads=2)
    projected, codes = make_index(shape, torch.uint8)
    sizes, empty = list[int](), torch.empty

    def counted(*size: int, **options: Any) -> Tensor:
        sizes.append(math.prod(size) * 4)
        return empty(*size, **options)

    with monkeypatch.context() as patch:
        patch.setattr(kernel.torch, "empty", counted)
        scores(kernel, projected, codes, 1500, None, "cpu")
    side = activations.score_side(200, is_floating=False)
    planned = activations._score_bytes(shape.sets, shape.sets * shape.queries, 1500, side)
    spans, groups = 2, 3
    assert side == 32
    assert sizes == [shape.sets * shape.queries * spans * 4, groups * shape.sets * 1500 * 4]
    assert sum(sizes) <= planned <= sum(sizes) + 2 * sizes[0]
