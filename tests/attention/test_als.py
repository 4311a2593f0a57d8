"""The alternating least squares on sketches, against the equations with all rows of Q and K."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paper import Matrix, Weights, alternate, columns, descend, new_codes

from lrqk_cli.attention import als
from lrqk_cli.config import AlsConfig, AlsPenalties

ROWS, WIDTH, RANK = 60, 12, 4


def correlated(rows: int, seed: int) -> Matrix:
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(rows, WIDTH)) * np.geomspace(2.0, 0.2, WIDTH) @ random.normal(size=(WIDTH, WIDTH))
    )


def sketch(factor: Matrix, rows: Matrix) -> als.Sketch:
    return als.Sketch(torch.tensor(factor.T @ factor), torch.tensor(factor.T @ rows))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    queries=st.integers(20, 90),
    iterations=st.integers(1, 5),
    tolerance=st.sampled_from([0.0, 0.1, 1.0, 100.0]),
    weights=st.tuples(st.floats(0.01, 5.0), st.floats(0.01, 5.0)),
    linear=st.booleans(),
)
def test_the_iterates_are_those_of_the_tall_problem(
    seed: int, queries: int, iterations: int, tolerance: float, weights: tuple[float, float], linear: bool
) -> None:
    """From columns of Q and K, and from an A that has nothing to do with them."""
    query, key = correlated(queries, seed), correlated(ROWS, seed + 1)
    random = np.random.default_rng(seed)
    start = columns(query, key, RANK, "top")
    if not linear:
        start = random.normal(size=(queries, RANK)), random.normal(size=(ROWS, RANK))
    expected = alternate(query, key, start, iterations, tolerance, Weights(*weights))
    solved = als.solve_als(
        torch.tensor(query.T @ query),
        torch.tensor(key.T @ key),
        (queries, ROWS),
        (sketch(start[0], query), sketch(start[1], key)),
        AlsConfig(iterations=iterations, tolerance=tolerance, penalties=AlsPenalties(*weights)),
    )
    for actual, wanted in (
        (query @ solved.query_map.numpy(), expected.query_factor),
        (key @ solved.key_map.numpy(), expected.key_factor),
        (solved.query_basis.numpy(), expected.query_basis),
        (solved.key_basis.numpy(), expected.key_basis),
    ):
        assert np.linalg.norm(actual - wanted) < 1e-6 * np.linalg.norm(wanted)


def test_each_head_of_a_batch_stops_by_itself() -> None:
    """The first head stands still after one turn; the second goes on as if it were alone."""
    query, key = correlated(ROWS, 0), correlated(ROWS, 1)
    rows = [(0.001 * query, 0.001 * key), (query, key)]
    starts = [columns(*pair, RANK, "top") for pair in rows]
    alone = [alternate(*pair, start, 4, 1e-3, Weights()) for pair, start in zip(rows, starts, strict=True)]
    grams = [torch.tensor(np.stack([pair[i].T @ pair[i] for pair in rows])) for i in (0, 1)]
    sketches = [
        als.Sketch(
            *(
                torch.stack(part)
                for part in zip(*(sketch(s[i], p[i]) for s, p in zip(starts, rows, strict=True)), strict=True)
            )
        )
        for i in (0, 1)
    ]
    solved = als.solve_als(*grams, (ROWS, ROWS), tuple(sketches), AlsConfig(iterations=4, tolerance=1e-3))
    assert not np.allclose(alternate(*rows[0], starts[0], 4, 0.0, Weights()).key_factor, alone[0].key_factor)
    for number, (pair, expected) in enumerate(zip(rows, alone, strict=True)):
        actual = pair[1] @ solved.key_map[number].numpy()
        assert np.linalg.norm(actual - expected.key_factor) < 1e-6 * np.linalg.norm(expected.key_factor)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    queries=st.integers(1, 5),
    iterations=st.integers(1, 4),
    tolerance=st.sampled_from([0.0, 0.05, 100.0]),
    weights=st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 5.0)),
)
def test_a_decode_step_solves_its_least_squares(
    seed: int, queries: int, iterations: int, tolerance: float, weights: tuple[float, float]
) -> None:
    query, key, active = correlated(queries, seed), correlated(1, seed + 1), correlated(30, seed + 2)
    random = np.random.default_rng(seed)
    bases = random.normal(size=(RANK, WIDTH)), random.normal(size=(RANK, WIDTH))
    codes = random.normal(size=(30, RANK))
    w = Weights(new=weights[0], active=weights[1])
    q_code, k_code = new_codes(query, key, bases, (active, codes), iterations, tolerance, w)
    step = als.solve_step(
        *(torch.tensor(part) for part in (query, key)),
        (torch.tensor(bases[0]), torch.tensor(bases[1])),
        (torch.tensor(active), torch.tensor(codes)),
        AlsConfig(iterations=iterations, tolerance=tolerance, penalties=AlsPenalties(1.0, 1.0, *weights)),
    )
    np.testing.assert_allclose(step.query_code, q_code, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(step.key_code, k_code, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(step.query_basis, descend(bases[0], q_code, query), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(step.key_basis, descend(bases[1], k_code, key), rtol=1e-6, atol=1e-7)
    # With a single row the best step along the gradient reaches the row itself.
    np.testing.assert_allclose(step.key_code @ step.key_basis, key, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("count", [3, 8, 14, 200])
def test_random_sketches_have_the_moments_of_a_random_factor(count: int) -> None:
    """Fewer rows than the rank, than the width, little more, and many; 20,000 draws each way."""
    draws = 20_000
    rows = correlated(count, 4)
    gram = torch.tensor(rows.T @ rows).expand(draws, -1, -1)
    drawn = als.random_sketch(gram, count, RANK, np.random.default_rng(0))
    factor = np.random.default_rng(1).normal(size=(draws, count, RANK))
    real = factor.transpose(0, 2, 1) @ factor, factor.transpose(0, 2, 1) @ rows
    for ours, theirs in zip((drawn.gram.numpy(), drawn.cross.numpy()), real, strict=True):
        spread = theirs.std(0).max()
        np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.06 * spread)
        np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.06 * spread)
    # How the two hang together: (AᵀX)(XᵀX)⁺(AᵀX)ᵀ never exceeds AᵀA, and with few rows it is AᵀA.
    inside = drawn.cross @ torch.linalg.pinv(gram[0], hermitian=True, rtol=1e-10) @ drawn.cross.mT
    rest = torch.linalg.eigvalsh(drawn.gram - inside)
    assert rest.min() > -1e-6 * float(drawn.gram.abs().max())
    assert (rest.max() < 1e-6 * float(drawn.gram.abs().max())) == (count <= WIDTH)


def test_a_text_shorter_than_the_rank_leaves_no_infinity() -> None:
    rows = torch.tensor(correlated(2, 9))
    gram = rows.T @ rows
    start = als.column_sketch(gram, torch.arange(RANK))
    solved = als.solve_als(gram, gram, (2, 2), (start, start), AlsConfig())
    assert all(part.isfinite().all() for part in solved)
    bases = solved.query_basis, solved.key_basis
    step = als.solve_step(rows[:1], rows[:1], bases, (rows, rows @ solved.key_map), AlsConfig())
    assert all(part.isfinite().all() for part in step)
