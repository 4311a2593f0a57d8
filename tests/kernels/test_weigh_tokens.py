"""The weights of resident rows, by token."""

from __future__ import annotations

import math

import pytest
import torch
from decode_step import DEVICES, Shape, assert_same, make_layer, noise, to

from lrqk_cli.kernels.weigh_tokens import reference

kernel = pytest.importorskip("lrqk_cli.kernels.weigh_tokens.triton", reason="Triton is not installed")

SHAPES = [
    Shape(200),
    Shape(3, recent=8),
    Shape(20, hot=40),
    Shape(290, width=80, share=3, queries=1, hot=100),
    Shape(250, width=128, heads=1, queries=16, hot=200),
    Shape(299, width=256, hot=0, recent=300),
]


def lse_of(shape: Shape, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, their log-sum-exps, and the weights of all tokens in float64, from the store."""
    store, residents = make_layer(shape)
    query = noise(11, shape.sets, shape.queries, shape.width)
    keys = store[:, : shape.length + 1, 0].repeat_interleave(shape.share, 0).double()
    logits = query.double() @ keys.mT / math.sqrt(shape.width)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    attended = residents.resident[:, : shape.length + 1].clone()
    attended[:, max(0, shape.length + 1 - shape.recent) :] = True
    logits = logits.masked_fill(~attended.unsqueeze(1), float("-inf"))
    weights = torch.zeros(shape.context, dtype=torch.float64)
    weights[: shape.length + 1] = logits.softmax(-1).sum((0, 1))
    return query, logits.logsumexp(-1).float(), weights


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_are_those_of_the_softmax_over_residents(
    shape: Shape, softcap: float | None, device: str
) -> None:
    query, lse, expected = lse_of(shape, softcap)
    _, residents = make_layer(shape)
    before = noise(3, shape.context)
    for module, where in ((reference, "cpu"), (kernel, device)):
        out = to(before, where)
        module.weigh_tokens(
            *to((query, residents, lse, shape.device_length), where),
            out,
            scaling=1 / math.sqrt(shape.width),
            softcap=softcap,
        )
        assert_same(out, before + expected.float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_of_16_bits_are_taken_as_they_are(device: str) -> None:
    shape = Shape(200, width=64)
    query, lse, expected = lse_of(shape, None)
    residents = make_layer(shape, torch.float16)[1]
    out = torch.zeros(shape.context, device=device)
    kernel.weigh_tokens(
        *to((query.half(), residents, lse, shape.device_length), device), out, scaling=1 / 8.0
    )
    assert_same(out, expected.float(), atol=1e-4, rtol=1e-4)
