"""Scores by the index against a float64 oracle."""

from __future__ import annotations

import pytest
import torch

from lrqk_cli.kernels import group_scores, proxy_logits


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_logits_and_scores_match_the_definition(dtype: torch.dtype, softcap: float | None) -> None:
    random = torch.Generator().manual_seed(1)
    codes = torch.randint(-127, 128, (2, 63, 8), generator=random).to(dtype)
    projected = torch.randn(2, 3, 8, generator=random) / 100
    offset = torch.randn(2, 3, generator=random)
    logits = proxy_logits(projected, offset, codes, scaling=0.7, softcap=softcap)
    expected = torch.einsum("hnr,htr->hnt", projected.double(), codes.double()) + offset.double()[..., None]
    expected = expected * 0.7
    if softcap is not None:
        expected = softcap * torch.tanh(expected / softcap)
    torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        group_scores(logits).double(), expected.softmax(-1).sum(1), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        group_scores(logits, "max").double(), expected.softmax(-1).amax(1), atol=1e-6, rtol=1e-5
    )
