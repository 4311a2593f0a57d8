"""Solver, grouping and hot policy: what each of them changes, and what it leaves alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.config import AlsConfig, AlsPenalties, LrqkConfig
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.telemetry.stats import StepStats

HEADS, GROUP, WIDTH, PROMPT, STEPS = 2, 3, 16, 150, 20
TOP_K, RECENT = 20, 8
SPEC = ModelSpec("t", "t", ("full",), HEADS * GROUP, HEADS, WIDTH, 8, 8, 97, 200, 200, 1)
PARAMS = AttentionParams(0.5)


def rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    count = PROMPT + STEPS
    query = torch.randn(HEADS, GROUP, count, WIDTH, generator=random)
    key, value = torch.randn(2, HEADS, count, WIDTH, generator=random)
    return query, key, value


def play(data: tuple[Tensor, Tensor, Tensor], **settings: Any) -> tuple[list[Tensor], list[StepStats], list]:
    """Feed a prompt and then tokens; return the outputs, the counters and the hot tokens of every step."""
    defaults = {"rank": 8, "top_k": TOP_K, "recent": RECENT, "hot": 40, "index_bits": 16}
    config = LrqkConfig(**{**defaults, **settings})
    cache = LrqkCache(SPEC, config, 200, torch.float32, torch.device("cpu"))
    layer = cache.attention_layers[0]
    query, key, value = data

    def feed(start: int, stop: int) -> Tensor:
        cache.update(key[None, :, start:stop], value[None, :, start:stop], 0)
        return cache.attend(0, query[:, :, start:stop], key[:, start:stop], value[:, start:stop], PARAMS)

    feed(0, PROMPT)
    cache.finish_prefill()
    outputs, stats, hot = [], [], [[set(held.tolist()) for held in layer.hot.slot_token]]
    for token in range(PROMPT, PROMPT + STEPS):
        outputs.append(feed(token, token + 1))
        stats.append(layer.take_stats())
        hot.append([set(held.tolist()) for held in layer.hot.slot_token])
    return outputs, stats, hot


@pytest.mark.parametrize("grouping", ["kv", "head"])
@pytest.mark.parametrize("solver", ["joint", "als"])
def test_misses_are_the_tokens_that_enter_the_hot_set(solver: str, grouping: str) -> None:
    _, stats, hot = play(rows(), solver=solver, grouping=grouping, hot_policy="exact")
    sets = HEADS if grouping == "kv" else HEADS * GROUP
    for step, (before, after) in zip(stats, itertools.pairwise(hot), strict=True):
        assert all(len(held) == TOP_K for held in after)
        assert step.rows_wanted == sets * TOP_K
        assert step.rows_fetched == sum(len(b - a) for a, b in zip(before, after, strict=True))
        assert step.bytes_fetched == step.rows_fetched * 2 * WIDTH * 4
        assert step.row_sets == HEADS
    assert 0 < sum(step.rows_fetched for step in stats) < sum(step.rows_wanted for step in stats)


@pytest.mark.parametrize("grouping", ["kv", "head"])
def test_the_exact_policy_is_a_sticky_one_without_slack(
    grouping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LrqkConfig, "sink_tokens", 0)  # "exact" knows none
    exact = play(rows(), grouping=grouping, hot_policy="exact")
    sticky = play(rows(), grouping=grouping, hot=TOP_K)
    # They begin from the newest query alone and from the newest 32; one step later nothing differs.
    assert exact[2][1:] == sticky[2][1:]
    torch.testing.assert_close(exact[0], sticky[0])


@pytest.mark.parametrize("solver", ["joint", "als"])
def test_fetching_everything_anew_changes_the_traffic_and_nothing_else(solver: str) -> None:
    exact = play(rows(), solver=solver, grouping="head", hot_policy="exact")
    anew = play(rows(), solver=solver, grouping="head", hot_policy="refetch")
    assert exact[2] == anew[2]
    torch.testing.assert_close(exact[0], anew[0])
    assert all(step.rows_fetched == step.rows_wanted for step in anew[1])


def test_each_query_head_has_its_own_rows() -> None:
    _, _, hot = play(rows(), grouping="head", hot_policy="exact")
    assert len({frozenset(held) for held in hot[-1]}) == HEADS * GROUP


def test_query_heads_of_a_head_are_served_as_if_each_were_alone() -> None:
    """A model with as many KV heads as query heads, each with a copy of K and V, gives the same."""
    query, key, value = rows()
    alone = ModelSpec("t", "t", ("full",), HEADS * GROUP, HEADS * GROUP, WIDTH, 8, 8, 97, 200, 200, 1)
    settings = LrqkConfig(rank=8, top_k=TOP_K, recent=RECENT, hot=40, grouping="head")
    caches = [LrqkCache(s, settings, 200, torch.float32, torch.device("cpu")) for s in (SPEC, alone)]
    repeated = query.reshape(-1, 1, *query.shape[2:]), *(x.repeat_interleave(GROUP, 0) for x in (key, value))
    for start, stop in [(0, PROMPT), *((t, t + 1) for t in range(PROMPT, PROMPT + STEPS))]:
        outputs = []
        for cache, (q, k, v) in zip(caches, [(query, key, value), repeated], strict=True):
            cache.update(k[None, :, start:stop], v[None, :, start:stop], 0)
            rows_of = q[:, :, start:stop], k[:, start:stop], v[:, start:stop]
            outputs.append(cache.attend(0, *rows_of, PARAMS))
        torch.testing.assert_close(outputs[0].reshape(outputs[1].shape), outputs[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grouping", ["kv", "head"])
@pytest.mark.parametrize(
    "changes",
    [
        {"init": "top"},
        {"init": "topcol"},
        {"iterations": 4, "tolerance": 0.0},
        {"iterations": 4, "tolerance": 1e9},
        {"penalties": AlsPenalties(query=9.0)},
        {"penalties": AlsPenalties(key=9.0)},
        {"penalties": AlsPenalties(new=9.0)},
        {"penalties": AlsPenalties(active=9.0)},
    ],
)
def test_every_setting_of_als_acts(changes: dict[str, Any], grouping: str) -> None:
    settings: dict[str, Any] = {"solver": "als", "grouping": grouping, "hot_policy": "exact"}
    base = play(rows(), **settings)[2]
    assert play(rows(), **settings, als=AlsConfig(**changes))[2] != base


def test_a_random_start_is_the_same_in_every_run() -> None:
    first, second = (play(rows(), solver="als", grouping="head", hot_policy="exact") for _ in range(2))
    assert first[2] == second[2]
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)


@pytest.mark.parametrize("grouping", ["kv", "head"])
@pytest.mark.parametrize("solver", ["joint", "als"])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_method_finds_the_keys_that_matter(bits: int, solver: str, grouping: str) -> None:
    """Queries that look for planted keys of a low-rank text must get them, and the right answer with them."""
    random = torch.Generator().manual_seed(3)
    # Of the rank of the factors: the alternating fit of what has less is rounding in the other directions.
    basis = torch.randn(HEADS, 8, WIDTH, generator=random)
    key = torch.randn(HEADS, PROMPT + STEPS, 8, generator=random) @ basis
    wanted = torch.randint(0, PROMPT - RECENT, (HEADS, STEPS), generator=random)
    picked = torch.stack([key[head, wanted[head]] for head in range(HEADS)])
    query = torch.randn(HEADS, GROUP, PROMPT, 8, generator=random) @ basis.unsqueeze(1)
    aimed = picked.unsqueeze(1).expand(-1, GROUP, -1, -1)
    data = torch.cat((query, aimed), 2), key, torch.randn(HEADS, PROMPT + STEPS, WIDTH, generator=random)
    settings: dict[str, Any] = {"solver": solver, "grouping": grouping, "index_bits": bits}
    _, _, hot = play(data, **settings, hot_policy="exact")
    sets = len(hot[0]) // HEADS
    for step in range(STEPS):
        best = (key[:, : PROMPT + step + 1 - RECENT] @ picked[:, step].unsqueeze(2)).argmax(1).flatten()
        for number, held in enumerate(hot[step + 1]):
            assert int(best[number // sets]) in held
