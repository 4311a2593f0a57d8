"""What the rows that are not resident add: predicted from their codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.projection import JointProjector
from lrqk_cli.attention.tail import ValueTail
from lrqk_cli.config import LrqkConfig
from lrqk_cli.model_spec import ModelSpec

HEADS, GROUP, WIDTH, PROMPT, STEPS = 2, 3, 8, 150, 6
SPEC = ModelSpec("t", "t", ("full",), HEADS * GROUP, HEADS, WIDTH, 48, 64, 97, 400, 400, 1)
PARAMS = AttentionParams(scaling=0.3)


def rows(noise: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q, K and V of all tokens; V is a linear function of K, but for the noise."""
    random = torch.Generator().manual_seed(seed)
    count = PROMPT + STEPS
    query = torch.randn(HEADS, GROUP, count, WIDTH, generator=random)
    key = torch.randn(HEADS, count, WIDTH, generator=random) + 3.0
    linear = key @ torch.randn(HEADS, WIDTH, WIDTH, generator=random)
    value = linear + 2.0 + noise * torch.randn(HEADS, count, WIDTH, generator=random)
    return query, key, value


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    logits = query.double() @ key.double().unsqueeze(1).mT * PARAMS.scaling
    return logits.softmax(-1) @ value.double().unsqueeze(1)


def error(data: tuple[Tensor, Tensor, Tensor], **changes: object) -> float:
    """Return the relative error of the decode steps' outputs against exact attention."""
    sizes = {"hot": 16, "top_k": 8, "recent": 8, "rank": WIDTH, "index_bits": 16}
    settings = LrqkConfig(**{**sizes, **changes})  # type: ignore[arg-type]
    cache = LrqkCache(SPEC, settings, 400, torch.float32, torch.device("cpu"))
    query, key, value = data

    def feed(start: int, stop: int) -> Tensor:
        cache.update(key[None, :, start:stop], value[None, :, start:stop], 0)
        return cache.attend(0, query[:, :, start:stop], key[:, start:stop], value[:, start:stop], PARAMS)

    feed(0, PROMPT)
    cache.finish_prefill()
    lost = total = 0.0
    for token in range(PROMPT, PROMPT + STEPS):
        ours = feed(token, token + 1).double().reshape(HEADS, GROUP, 1, WIDTH)
        truth = exact(query[:, :, token : token + 1], key[:, : token + 1], value[:, : token + 1])
        lost += float((ours - truth).square().sum())
        total += float(truth.square().sum())
    return (lost / total) ** 0.5


@pytest.mark.parametrize("solver", ["joint", "als"])
@pytest.mark.parametrize("grouping", ["kv", "head"])
def test_values_that_are_linear_in_their_keys_are_not_missed(grouping: str, solver: str) -> None:
    """Full-rank codes in 16 bits give the weights, and the weights with them the values."""
    linear = error(rows(noise=0.0), grouping=grouping, solver="joint", tail="linear")
    assert linear < 0.02
    assert error(rows(noise=0.0), grouping=grouping, solver="joint", tail="none") > 10 * linear
    if solver == "als":
        paper = {"grouping": grouping, "solver": solver}
        assert error(rows(0.0), **paper, tail="linear") < 0.5 * error(rows(0.0), **paper, tail="none")


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_each_correction_is_better_than_a_simpler_one(bits: int) -> None:
    errors = [error(rows(noise=1.0), index_bits=bits, tail=tail) for tail in ("linear", "mean", "none")]
    assert errors == sorted(errors)
    assert errors[0] < 0.7 * errors[2]


def test_the_fit_is_ridge_regression_on_the_codes() -> None:
    query, key, value = rows(noise=1.0, seed=3)
    settings = LrqkConfig(rank=4, index_bits=16)
    projector = JointProjector(SPEC, settings, torch.device("cpu"))
    for start in range(0, PROMPT, 40):
        stop = min(PROMPT, start + 40)
        projector.observe(query[:, :, start:stop], key[:, start:stop], value[:, start:stop])
    projector.fit()
    tail = ValueTail(SPEC, settings, torch.device("cpu"))
    tail.fit(projector)
    codes = projector.project_keys(key[:, :PROMPT]).double().numpy()
    for head in range(HEADS):
        x, y = codes[head], value[head, :PROMPT].double().numpy()
        x_mean, y_mean = x.mean(0), y.mean(0)
        gram = (x - x_mean).T @ (x - x_mean)
        ridge = 1e-3 * np.trace(gram) / 4 * np.eye(4)
        slope = np.linalg.solve(gram + ridge, (x - x_mean).T @ (y - y_mean))
        np.testing.assert_allclose(tail.slope[head].numpy(), slope, atol=1e-3)
        np.testing.assert_allclose(tail.intercept[head].numpy(), y_mean - x_mean @ slope, atol=1e-3)


def test_mean_is_the_mean_value_of_all_rows() -> None:
    query, key, value = rows(noise=1.0)
    settings = LrqkConfig(rank=4, tail="mean")
    projector = JointProjector(SPEC, settings, torch.device("cpu"))
    projector.observe(query, key, value)
    projector.fit()
    tail = ValueTail(SPEC, settings, torch.device("cpu"))
    tail.fit(projector)
    codes = torch.randn(HEADS, GROUP, 4)
    expected = value.mean(1, keepdim=True).expand(-1, GROUP, -1)
    torch.testing.assert_close(tail.mean_value(codes), expected)
