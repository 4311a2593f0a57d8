"""The low-rank index: what it predicts, and how little it loses in eight bits."""

from __future__ import annotations

import pytest
import torch

from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.projection import QueryCodes
from lrqk_cli.config import LrqkConfig, ModelSpec

HEADS, WIDTH, TOKENS = 2, 8, 60
CPU = torch.device("cpu")


def spec() -> ModelSpec:
    return ModelSpec("t", "t", ("full",), 4, HEADS, WIDTH, 32, 64, 97, 128, 128, 1)


def codes_of(query: torch.Tensor) -> QueryCodes:
    """Codes that are the queries themselves; the keys were centred at 5."""
    return QueryCodes(query, 5.0 * query.sum(-1))


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.03), (16, 0.01)])
def test_full_rank_logits_are_the_exact_ones(bits: int, tolerance: float) -> None:
    random = torch.Generator().manual_seed(0)
    key = torch.randn(HEADS, TOKENS, WIDTH, generator=random) + 5.0
    query = torch.randn(HEADS, 3, WIDTH, generator=random)
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH, index_bits=bits), 128, CPU)
    index.rebuild((key[:, :50] - 5.0).split(20, dim=1))
    index.append(key[:, 50:] - 5.0)
    assert index.length == TOKENS
    exact = (query @ key.mT) * 0.4
    logits = index.logits(codes_of(query), scaling=0.4, softcap=None)
    assert (logits - exact).norm() < tolerance * (exact - exact.mean(-1, keepdim=True)).norm()


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.02), (16, 0.02)])
def test_single_codes_can_be_looked_up(bits: int, tolerance: float) -> None:
    codes = torch.randn(HEADS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH, index_bits=bits), 128, CPU)
    index.rebuild([codes])
    token = torch.tensor([[3, 0, 59], [7, 7, 20]])
    expected = torch.stack([codes[head, token[head]] for head in range(HEADS)])
    torch.testing.assert_close(index.gather(token), expected, atol=tolerance, rtol=tolerance)


def test_an_outlier_that_is_appended_saturates_and_does_not_wrap() -> None:
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH), 128, CPU)
    index.rebuild([torch.ones(HEADS, 4, WIDTH)])
    index.append(torch.full((HEADS, 1, WIDTH), 900.0))
    assert torch.equal(index.codes[:, 4], torch.full((HEADS, WIDTH), 127, dtype=torch.int8))


def test_truncated_tokens_are_not_scored() -> None:
    index = LowRankIndex(spec(), LrqkConfig(), 128, CPU)
    index.rebuild([torch.randn(HEADS, 9, WIDTH)])
    index.truncate(4)
    query = codes_of(torch.randn(HEADS, 2, WIDTH))
    assert index.logits(query, scaling=1.0, softcap=None).shape == (HEADS, 2, 4)


def test_bytes_are_those_of_the_tensors() -> None:
    index = LowRankIndex(spec(), LrqkConfig(rank=4), 128, CPU)
    assert index.nbytes == HEADS * 128 * 4 + HEADS * 4 * 4
