"""The joint solver against float64 oracles written from the definition of the problem."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from decode_step import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrqk_cli.attention import factors
from lrqk_cli.attention.factors import GramAccumulator
from lrqk_cli.attention.projection import JointProjector
from lrqk_cli.config import LrqkConfig
from lrqk_cli.model_spec import ModelSpec

WIDTH, QUERIES, KEYS = 12, 90, 70


def solve_joint(query_gram: Tensor, key_gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Solve for one row set."""
    query_map, key_map = factors.solve_joint(query_gram[None], key_gram[None], rank)
    return query_map[0], key_map[0]


def correlated(rows: int, width: int, seed: int) -> np.ndarray:
    """Return rows with a spread of scales along random directions."""
    random = np.random.default_rng(seed)
    spectrum = np.geomspace(5.0, 0.05, width)
    return random.normal(size=(rows, width)) * spectrum @ random.normal(size=(width, width))


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, WIDTH), seed=st.integers(0, 2**16))
def test_scores_are_the_best_rank_r_approximation(rank: int, seed: int) -> None:
    """Eckart-Young: the truncated SVD of Q Kᵀ itself is what the maps must reproduce."""
    query, key = correlated(QUERIES, WIDTH, seed), correlated(KEYS, WIDTH, seed + 1)
    scores = query @ key.T
    left, singular, right = np.linalg.svd(scores, full_matrices=False)
    best = left[:, :rank] * singular[:rank] @ right[:rank]
    query_map, key_map = solve_joint(torch.tensor(query.T @ query), torch.tensor(key.T @ key), rank)
    ours = (query @ query_map.numpy()) @ (key @ key_map.numpy()).T
    assert np.linalg.norm(ours - best) <= 1e-5 * np.linalg.norm(scores)
    least = np.linalg.norm(scores - best)
    assert np.linalg.norm(scores - ours) <= least * (1 + 1e-6) + 1e-6 * np.linalg.norm(scores)


def test_dimensions_of_the_index_share_the_weight_evenly() -> None:
    """Both maps carry √Σ, so that queries and keys have the same energy in every dimension."""
    query, key = correlated(QUERIES, WIDTH, 3), correlated(KEYS, WIDTH, 4)
    query_map, key_map = solve_joint(torch.tensor(query.T @ query), torch.tensor(key.T @ key), 5)
    query_energy = np.linalg.norm(query @ query_map.numpy(), axis=0)
    np.testing.assert_allclose(query_energy, np.linalg.norm(key @ key_map.numpy(), axis=0), rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_fewer_rows_than_dimensions_are_reproduced_exactly(rows: int) -> None:
    query, key = torch.tensor(correlated(rows, WIDTH, 5)), torch.tensor(correlated(rows, WIDTH, 6))
    query_map, key_map = solve_joint(query.T @ query, key.T @ key, rows)
    scores = query @ key.T
    assert torch.dist((query @ query_map) @ (key @ key_map).T, scores) < 1e-4 * scores.norm()


def test_a_single_key_leaves_no_infinity() -> None:
    maps = solve_joint(torch.eye(4), torch.zeros(4, 4), 2)
    assert all(torch.isfinite(part).all() for part in maps)


def test_sums_whose_rounding_leaves_negative_eigenvalues() -> None:
    """Sums in float32 of rows of low rank are not quite positive semidefinite."""
    key = torch.tensor(correlated(5, WIDTH, 1))
    query = torch.tensor(correlated(QUERIES, WIDTH, 2))
    gram = key.T @ key
    values, vectors = torch.linalg.eigh(gram)
    values[0] = -1e-7 * values[-1]
    maps = solve_joint(query.T @ query, vectors * values @ vectors.mT, 5)
    scores = query @ key.T
    assert torch.dist((query @ maps[0]) @ (key @ maps[1]).T, scores) < 1e-3 * scores.norm()


@pytest.mark.parametrize("rows", [7, 2048, 2 * 2048 + 5])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grouping", ["kv", "head"])
def test_sums_of_a_long_segment(
    rows: int, dtype: torch.dtype, device: str, grouping: Literal["kv", "head"]
) -> None:
    generator = torch.Generator().manual_seed(rows)
    query = torch.randn(2, rows, 2, WIDTH, generator=generator).to(device, dtype)
    query = query.transpose(1, 2)  # as models have it
    key, value = (torch.randn(2, rows, WIDTH, generator=generator).to(query) for _ in range(2))
    grams = GramAccumulator(spec(), LrqkConfig(grouping=grouping), torch.device(device))
    grams.add(query, key + 3, value)
    sums = grams.on_cpu()
    queries = query.cpu().double().reshape(len(sums.query_gram), -1, WIDTH)
    keys, values = (key + 3).cpu().double(), value.cpu().double()
    expected = queries.mT @ queries
    # On a GPU numbers of 16 bits are multiplied exactly, but shifted keys are rounded to 16 bits; others are
    # rounded to TF32.
    tolerance = (1e-2 if device == "cuda" else 1e-4) * rows**0.5
    exactly = 1e-4 * rows**0.5 if dtype == torch.bfloat16 else tolerance
    torch.testing.assert_close(sums.query_gram.double(), expected, rtol=1e-4, atol=exactly)
    centred = keys - keys.mean(1, keepdim=True)
    torch.testing.assert_close(sums.moments().mean, keys.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums.moments().centred_key, centred.mT @ centred, rtol=1e-3, atol=tolerance)
    torch.testing.assert_close(sums.centred_keys_values(), centred.mT @ values, rtol=1e-3, atol=tolerance)


def spec() -> ModelSpec:
    return ModelSpec("t", "t", ("full",), 4, 2, WIDTH, 48, 96, 97, 512, 512, 1)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, KEYS - 1), max_size=4, unique=True), seed=st.integers(0, 1000))
def test_a_stream_of_segments_gives_the_factors_of_the_whole(cuts: list[int], seed: int) -> None:
    """Also with a large common key, which a difference of plain sums would drown in."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 2, KEYS, WIDTH, generator=generator)
    key = torch.randn(2, KEYS, WIDTH, generator=generator) + 300.0
    projector = JointProjector(spec(), LrqkConfig(rank=WIDTH), torch.device("cpu"))
    edges = [0, *sorted(cuts), KEYS]
    for start, stop in itertools.pairwise(edges):
        projector.observe(query[:, :, start:stop], key[:, start:stop], torch.zeros_like(key[:, start:stop]))
    projector.fit()
    torch.testing.assert_close(projector.key_mean, key.mean(1), atol=1e-3, rtol=0)
    for head in range(2):
        rows = query[head].reshape(-1, WIDTH).double()
        centred = key[head].double() - key[head].double().mean(0)
        mapped = (rows @ projector.query_map[head].double()) @ (centred @ projector.key_map[head].double()).T
        exact = rows @ centred.T
        assert torch.dist(mapped, exact) < 1e-3 * exact.norm()


def test_ranking_matches_a_float64_oracle_through_the_projections() -> None:
    query = torch.tensor(correlated(2 * 4 * 20, WIDTH, 8)).view(2, 4, 20, WIDTH).float()
    key = torch.tensor(correlated(2 * 50, WIDTH, 9)).view(2, 50, WIDTH).float() + 3.0
    projector = JointProjector(spec(), LrqkConfig(rank=4), torch.device("cpu"))
    projector.observe(query, key, torch.zeros_like(key))
    projector.fit()
    for head in range(2):
        rows = query[head].reshape(-1, WIDTH).double().numpy()
        keys = key[head].double().numpy()
        centred = keys - keys.mean(0)
        left, singular, right = np.linalg.svd(rows @ centred.T, full_matrices=False)
        oracle = left[:, :4] * singular[:4] @ right[:4] + rows @ keys.mean(0)[:, None]
        codes, offset = projector.project_queries(query.flatten(1, 2))
        scores = codes[head] @ projector.project_keys(key)[head].T + offset[head].unsqueeze(1)
        scale = np.abs(oracle).max()
        np.testing.assert_allclose(scores.numpy(), oracle, atol=2e-4 * scale, rtol=0)
