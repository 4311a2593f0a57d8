"""The low-rank index: what it predicts, and how little it loses in eight bits."""

from __future__ import annotations

import pytest
import torch

from lrqk_cli.attention.index import LowRankIndex
from lrqk_cli.attention.projection import QueryCodes, make_projector
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels.total_scores import reference
from lrqk_cli.model_spec import ModelSpec

HEADS, WIDTH, TOKENS = 2, 8, 60
CPU = torch.device("cpu")


def spec() -> ModelSpec:
    return ModelSpec("t", "t", ("full",), 4, HEADS, WIDTH, 32, 64, 97, 128, 128, 1)


def rebuild(index: LowRankIndex, codes: torch.Tensor, parts: int = 20) -> None:
    index.rescale(codes.square().mean(1, keepdim=True).sqrt())
    for first in range(0, codes.shape[1], parts):
        index.write(first, codes[:, first : first + parts])


def codes_of(query: torch.Tensor) -> QueryCodes:
    """Codes that are the queries themselves; the keys were centred at 5."""
    return QueryCodes(query, 5.0 * query.sum(-1))


@pytest.mark.parametrize(("bits", "tolerance"), [(4, 0.3), (8, 0.03), (16, 0.01)])
def test_full_rank_logits_are_the_exact_ones(bits: int, tolerance: float) -> None:
    random = torch.Generator().manual_seed(0)
    key = torch.randn(HEADS, TOKENS, WIDTH, generator=random) + 5.0
    query = torch.randn(HEADS, 3, WIDTH, generator=random)
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH, index_bits=bits), 128, CPU)
    rebuild(index, key[:, :50] - 5.0)
    index.write(50, key[:, 50:] - 5.0)
    exact = (query @ key.mT) * 0.4
    logits = index.logits(codes_of(query), TOKENS, scaling=0.4, softcap=None)
    assert (logits - exact).norm() < tolerance * (exact - exact.mean(-1, keepdim=True)).norm()


@pytest.mark.parametrize(("bits", "tolerance"), [(4, 0.3), (8, 0.032), (16, 0.02)])
def test_single_codes_can_be_looked_up(bits: int, tolerance: float) -> None:
    codes = torch.randn(HEADS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH, index_bits=bits), 128, CPU)
    rebuild(index, codes)
    token = torch.tensor([[3, 0, 59], [7, 7, 20]])
    expected = torch.stack([codes[head, token[head]] for head in range(HEADS)])
    torch.testing.assert_close(index.gather(token), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("bits", "reach"), [(4, 3.0), (8, 8.0)])
def test_an_outlier_that_is_appended_saturates_and_does_not_wrap(bits: int, reach: float) -> None:
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH, index_bits=bits), 128, CPU)
    rebuild(index, torch.ones(HEADS, 4, WIDTH))
    index.write(4, torch.full((HEADS, 1, WIDTH), 900.0))
    index.write(5, torch.full((HEADS, 1, WIDTH), -900.0))
    token = torch.tensor([[4, 5]] * HEADS)
    outliers = index.gather(token)
    torch.testing.assert_close(outliers[:, 0], torch.full((HEADS, WIDTH), reach))
    torch.testing.assert_close(outliers[:, 1], torch.full((HEADS, WIDTH), -reach))


def test_one_huge_key_does_not_flatten_the_others_in_four_bits() -> None:
    """The first token's key is an outlier in many models."""
    codes = torch.randn(HEADS, 100, WIDTH, generator=torch.Generator().manual_seed(2))
    codes[:, 0] = 60.0
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH, index_bits=4), 128, CPU)
    rebuild(index, codes)
    token = torch.arange(1, 100).expand(HEADS, -1)
    assert (index.gather(token) - codes[:, 1:]).norm() < 0.75 * codes[:, 1:].norm()


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_weighted_sums_are_those_of_the_codes(bits: int) -> None:
    random = torch.Generator().manual_seed(4)
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH, index_bits=bits), 128, CPU)
    rebuild(index, torch.randn(HEADS, TOKENS, WIDTH, generator=random))
    weights = torch.rand(HEADS, 3, 40, generator=random)
    codes = index.gather(torch.arange(40).expand(HEADS, -1))
    torch.testing.assert_close(index.weighted_sum(weights), weights @ codes)


def test_tokens_beyond_the_length_are_not_scored() -> None:
    index = LowRankIndex(spec(), LrqkConfig(), 128, CPU)
    rebuild(index, torch.randn(HEADS, 9, WIDTH))
    query = codes_of(torch.randn(HEADS, 2, WIDTH))
    logits = index.logits(query, 9, scaling=1.0, softcap=None)
    assert torch.equal(index.logits(query, 4, scaling=1.0, softcap=None), logits[:, :, :4])


@pytest.mark.parametrize(("bits", "row"), [(4, 2), (8, 4), (16, 8)])
def test_bytes_are_those_of_the_tensors(bits: int, row: int) -> None:
    index = LowRankIndex(spec(), LrqkConfig(rank=4, index_bits=bits), 128, CPU)
    assert index.nbytes == HEADS * 128 * row + HEADS * 4 * 4


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_total_scores_are_sums_of_softmaxes(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the chunks."""
    monkeypatch.setattr(reference, "SCORE_CHUNK", 7)
    random = torch.Generator().manual_seed(5)
    index = LowRankIndex(spec(), LrqkConfig(rank=WIDTH), 128, CPU)
    rebuild(index, torch.randn(HEADS, TOKENS, WIDTH, generator=random))
    query = codes_of(torch.randn(HEADS, 9, WIDTH, generator=random))
    expected = index.logits(query, TOKENS, scaling=0.7, softcap=softcap).softmax(-1).sum(1)
    torch.testing.assert_close(index.total_scores(query, TOKENS, scaling=0.7, softcap=softcap), expected)


@pytest.mark.parametrize("grouping", ["kv", "head"])
@pytest.mark.parametrize("solver", ["joint", "als"])
def test_deviations_of_codes_follow_from_the_gram_matrix(solver: str, grouping: str) -> None:
    random = torch.Generator().manual_seed(6)
    settings = LrqkConfig(solver=solver, grouping=grouping, rank=4)
    projector = make_projector(spec(), settings, CPU)
    keys = torch.randn(HEADS, TOKENS, WIDTH, generator=random) * torch.arange(1, WIDTH + 1) + 3.0
    for key in keys.split(20, dim=1):
        queries = torch.randn(HEADS, 2, key.shape[1], WIDTH, generator=random)
        projector.observe(queries, key, torch.randn(key.shape, generator=random))
    deviations = projector.fit()
    codes = projector.project_keys(keys)
    expected = codes.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(deviations, expected, rtol=1e-4, atol=1e-5)
