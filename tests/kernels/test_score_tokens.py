"""Predicted logits and their masses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decode_step import DEVICES, Shape, assert_same, make_index, make_layer, noise, poisoned, to

from lrqk_cli.kernels.buffers import Projected, TokenScores
from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.score_tokens import reference

kernel = pytest.importorskip("lrqk_cli.kernels.score_tokens.triton", reason="Triton is not installed")

CPU = torch.device("cpu")
SHAPES = [
    Shape(0, queries=1),
    Shape(30, context=33, rank=32, queries=5),
    Shape(30, context=70, rank=64, queries=17, heads=1),
    Shape(62, rank=5, queries=3, share=2),
    Shape(255, queries=6),
    Shape(1024, context=1100, rank=32, queries=8, heads=1),
    Shape(1024, context=1500, rank=80, queries=7, heads=1),
    Shape(700, context=800, rank=64, queries=4, heads=1),
    Shape(380, context=384, rank=16, queries=3),
    Shape(290, rank=128, queries=2, heads=1, recent=64),
    Shape(290, rank=16, queries=9, heads=1, recent=280),
    Shape(290, rank=32, queries=28, heads=1),
    pytest.param(
        Shape(70_000, context=1 << 17, rank=64, queries=4, heads=8, recent=64), marks=pytest.mark.gpu
    ),
]


def run(
    module: Any, shape: Shape, dtype: torch.dtype, softcap: float | None, device: str, *, tail: bool = True
) -> TokenScores:
    projected, codes = to(make_index(shape, dtype), device)
    sizes = (shape.sets, shape.queries, shape.context)
    out = TokenScores.empty(*sizes, torch.device(device), tail_rank=shape.rank if tail else None)
    poisoned(out)
    resident, length = make_layer(shape)[1].resident.to(device), shape.device_length.to(device)
    options = {"recent": shape.recent, "scaling": 0.125, "softcap": softcap}
    module.score_tokens(projected, codes, resident, length, out, **options)
    return out


def mean_codes(scores: TokenScores) -> torch.Tensor:
    """Return the mean code of each span's candidates that are not resident; zero where there are none."""
    mass = scores.masses[:, :, 2].unsqueeze(3)
    return scores.code_sums / mass.where(mass != 0, 1.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(shape: Shape, dtype: torch.dtype, softcap: float | None, device: str) -> None:
    if shape.length > 5000 and device == "cpu":
        pytest.skip("takes the interpreter too long")
    if dtype == torch.uint8 and shape.rank % 2:
        pytest.skip("packed codes come in pairs")
    expected = run(reference, shape, dtype, softcap, "cpu")
    found = run(kernel, shape, dtype, softcap, device)
    # Poison past n compares equal to poison only.
    assert_same(found[:2], expected[:2], atol=1e-5, rtol=1e-5)
    # A mean of codes from -8 to 8, of whose terms tensor cores cut what lies 17 bits below a code's unit.
    assert_same(mean_codes(found), mean_codes(expected), atol=2.5e-4)
    assert_same(run(kernel, shape, dtype, softcap, device), found)


@pytest.mark.parametrize("device", DEVICES)
def test_no_tail_changes_nothing_else(device: str) -> None:
    shape = Shape(700, context=800, queries=3, recent=300)
    scores = run(kernel, shape, torch.uint8, None, device, tail=False)
    assert scores.code_sums is None
    # Compiled apart, the two may round apart.
    assert_same(scores[:2], run(kernel, shape, torch.uint8, None, device)[:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("module", [reference, kernel], ids=["reference", "triton"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU here")
def test_sums_are_those_of_all_tokens_and_of_the_candidates_that_are_not_resident(module: Any) -> None:
    shape = Shape(700, context=800, queries=3, recent=300)
    scores = run(module, shape, torch.uint8, None, "cpu")
    projected, packed = make_index(shape, torch.uint8)
    codes = unpack_codes(packed)[:, :701].double()
    offset = projected.offset.double().unsqueeze(2)
    logits = (projected.codes.double() @ codes.mT + offset) * 0.125
    torch.testing.assert_close(scores.logits[:, :, :701].double(), logits, atol=1e-5, rtol=1e-5)
    assert scores.span == 128
    peak, mass, candidate_mass = scores.masses[..., : 701 // 128 + 1].double().unbind(2)
    torch.testing.assert_close((peak + mass.log()).logsumexp(-1), logits.logsumexp(-1))
    outside = logits[:, :, :401].masked_fill(make_layer(shape)[1].resident[:, None, :401], float("-inf"))
    candidates = (peak + candidate_mass.log()).logsumexp(-1)
    torch.testing.assert_close(candidates, outside.logsumexp(-1))
    code_sums = scores.code_sums[:, :, : peak.shape[2]].double() * peak.exp().unsqueeze(3)
    expected = outside.exp() @ codes[:, :401]
    torch.testing.assert_close(code_sums.sum(2), expected, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_queries_count_with_more_bits_than_a_tensor_core_takes(device: str) -> None:
    shape = Shape(250, rank=64, queries=4, heads=1)
    projected, codes = make_index(shape, torch.uint8)
    generator = torch.Generator().manual_seed(3)
    # Rows of very different magnitude, none of which float16 could hold.
    magnitude = torch.tensor([1e-12, 1.0, 3e5, 7e9]).view(1, 4, 1)
    query_codes = torch.randn(projected.codes.shape, generator=generator) * magnitude
    out = TokenScores.empty(1, 4, shape.context, torch.device(device))
    kernel.score_tokens(
        Projected(query_codes.to(device), torch.zeros(1, 4, device=device)),
        codes.to(device),
        torch.zeros(1, shape.context, dtype=torch.bool, device=device),
        shape.device_length.to(device),
        out,
        recent=shape.recent,
        scaling=1.0,
    )
    expected = query_codes.double() @ unpack_codes(codes)[:, :251].double().mT
    error = (out.logits[:, :, :251].cpu().double() - expected).abs() / magnitude
    # In 11 bits alone it would be around 1e-2.
    assert error.max() < 5e-5
    assert out.masses[..., : -(-251 // out.span)].isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offsets_beyond_32_bits() -> None:
    sets, context, rank, count = 3, 1 << 25, 32, 1000
    codes = torch.empty(sets, context, rank, dtype=torch.int8, device="cuda")
    assert codes.numel() > 2**31
    codes[:, :count] = (noise(1, sets, count, rank) * 4).to(torch.int8).cuda()
    projected = Projected(noise(2, sets, 2, rank).cuda(), noise(3, sets, 2).cuda())
    out = poisoned(TokenScores.empty(sets, 2, 1024, torch.device("cuda")))
    expected = poisoned(TokenScores.empty(sets, 2, 1024, CPU))
    length = torch.tensor([count - 1])
    resident = torch.zeros(sets, context, dtype=torch.bool, device="cuda")
    kernel.score_tokens(projected, codes, resident, length.cuda(), out, recent=8, scaling=0.1)
    part, mask = codes[:, :count].cpu(), resident[:, :count].cpu()
    reference.score_tokens(to(projected, "cpu"), part, mask, length, expected, recent=8, scaling=0.1)
    assert_same(out, expected, atol=1e-5, rtol=1e-5)
