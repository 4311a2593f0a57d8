"""Predicted logits and their masses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decode_step import DEVICES, Shape, assert_same, make_index, noise, poisoned, to

from lrqk_cli.kernels.buffers import Projected, TokenScores
from lrqk_cli.kernels.score_tokens import reference

kernel = pytest.importorskip("lrqk_cli.kernels.score_tokens.triton", reason="Triton is not installed")

CPU = torch.device("cpu")
SHAPES = [
    Shape(0, queries=1),
    Shape(62, rank=5, queries=3, share=2),
    Shape(255, queries=6),
    Shape(1024, context=1100, rank=32, queries=8, heads=1),
    Shape(1024, context=1500, rank=80, queries=7, heads=1),
    pytest.param(
        Shape(70_000, context=1 << 17, rank=32, queries=4, heads=3, recent=64), marks=pytest.mark.gpu
    ),
]


def run(module: Any, shape: Shape, dtype: torch.dtype, softcap: float | None, device: str) -> TokenScores:
    projected, codes = to(make_index(shape, dtype), device) if device == "cuda" else make_index(shape, dtype)
    out = poisoned(TokenScores.empty(shape.sets, shape.queries, shape.context, torch.device(device)))
    length = shape.device_length.to(device)
    module.score_tokens(projected, codes, length, out, recent=shape.recent, scaling=0.125, softcap=softcap)
    return out


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(shape: Shape, dtype: torch.dtype, softcap: float | None, device: str) -> None:
    if shape.length > 5000 and device == "cpu":
        pytest.skip("takes the interpreter too long")
    expected = run(reference, shape, dtype, softcap, "cpu")
    found = run(kernel, shape, dtype, softcap, device)
    # Poison past n compares equal to poison only.
    assert_same(found, expected, atol=1e-5, rtol=1e-5)
    assert_same(run(kernel, shape, dtype, softcap, device), found)


def test_masses_are_those_of_all_tokens_and_of_the_candidates() -> None:
    shape = Shape(700, context=800, queries=3, recent=300)
    scores = run(reference, shape, torch.int8, None, "cpu")
    logits = scores.logits[:, :, :701].double()
    peak, mass, candidate_mass = scores.masses[..., : 701 // 256 + 1].double().unbind(2)
    torch.testing.assert_close((peak + mass.log()).logsumexp(-1), logits.logsumexp(-1))
    candidates = (peak + candidate_mass.log()).logsumexp(-1)
    torch.testing.assert_close(candidates, logits[:, :, :401].logsumexp(-1))


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
    kernel.score_tokens(projected, codes, length.cuda(), out, recent=8, scaling=0.1)
    part = codes[:, :count].cpu()
    reference.score_tokens(to(projected, "cpu"), part, length, expected, recent=8, scaling=0.1)
    assert_same(out, expected, atol=1e-5, rtol=1e-5)
