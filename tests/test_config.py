"""Settings are checked when they are made."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lrqk_cli.config import AlsConfig, AlsPenalties, GenerationConfig, LrqkConfig, paper_settings
from lrqk_cli.errors import UsageError


@pytest.mark.parametrize(
    "wrong",
    [
        {"solver": "svd"},
        {"grouping": "layer"},
        {"hot_policy": "lru"},
        {"tail": "all"},
        {"attention": "sparse"},
        {"hot": 10, "top_k": 11},
    ],
)
def test_what_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LrqkConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"init": "svd"}, {"iterations": 0}, {"tolerance": -1.0}])
def test_als_is_checked_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        AlsConfig(**wrong)


def test_a_penalty_cannot_be_negative() -> None:
    with pytest.raises(UsageError):
        AlsPenalties(new=-0.1)


def test_only_a_sticky_hot_set_has_room_beside_the_best_rows() -> None:
    assert LrqkConfig(hot=10, top_k=11, hot_policy="exact").top_k == 11


def test_the_settings_of_the_paper() -> None:
    base = LrqkConfig(attention="dense", rank=8, top_k=7, segment=77, als=AlsConfig("top", 9))
    expected = LrqkConfig(
        rank=32,
        index_bits=16,
        top_k=2048,
        recent=64,
        tail="none",
        segment=77,
        solver="als",
        grouping="head",
        hot_policy="exact",
        als=AlsConfig("randn", 2, 1e-2, AlsPenalties(1.0, 1.0, 1.0, 1.0)),
    )
    assert paper_settings(base) == expected


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_of_sampling_are_finite(name, value):
    with pytest.raises(UsageError, match="finite"):
        GenerationConfig(**{name: value})


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 5e-324, 1e-38, 0.009, 101.0, 1e308])
def test_a_penalty_that_no_logit_withstands_is_refused(penalty):
    with pytest.raises(UsageError, match=r"between 0\.01 and 100"):
        GenerationConfig(repetition_penalty=penalty)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_fits_in_64_bits(seed):
    with pytest.raises(UsageError, match="64 bits"):
        GenerationConfig(seed=seed)
