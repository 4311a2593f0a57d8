"""Decode steps whose lengths live on the device, beside those whose lengths live on the host."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.config import LrqkConfig
from lrqk_cli.model_spec import ModelSpec

HEADS, GROUP, WIDTH, CONTEXT = 2, 3, 16, 512
SPEC = ModelSpec("t", "t", ("full",), HEADS * GROUP, HEADS, WIDTH, 96, 64, 97, CONTEXT, CONTEXT, 1)
CPU = torch.device("cpu")


def make_cache(kind: str, *, on_device: bool = False, **changes: object) -> LrqkCache:
    """Return the cache of one layer, ``on_device`` with the steps of a GPU on their plain references."""
    spec, sizes = SPEC, {"hot": 32, "top_k": 12, "recent": 8, "rank": 8, "index_bits": 8}
    if kind == "sliding":
        spec = replace(spec, layer_kinds=("sliding",), sliding_window=24)
    settings = LrqkConfig(**{**sizes, **changes})  # type: ignore[arg-type]
    if kind != "lrqk":
        settings = replace(settings, attention="dense")
    with patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: on_device):
        return LrqkCache(spec, settings, CONTEXT, torch.float32, CPU)


def play(cache: LrqkCache, lengths: list[int], params: AttentionParams, seed: int = 0) -> Tensor:
    """Feed segments and single tokens; return the outputs of all, one after another."""
    random = torch.Generator().manual_seed(seed)
    outputs = []
    for count in lengths:
        query = torch.randn(HEADS, GROUP, count, WIDTH, generator=random) * 2
        key, value = torch.randn(2, HEADS, count, WIDTH, generator=random)
        cache.update(key.unsqueeze(0), value.unsqueeze(0), 0)
        outputs.append(cache.attend(0, query, key, value, params))
        if count > 1:
            cache.finish_prefill()
    return torch.cat(outputs, 2)


CASES = [
    ("dense", {}),
    ("sliding", {}),
    ("lrqk", {}),
    ("lrqk", {"index_bits": 4, "tail": "mean"}),
    ("lrqk", {"index_bits": 16, "tail": "none", "hot_policy": "exact"}),
    ("lrqk", {"grouping": "head"}),
    ("lrqk", {"aggregate": "max"}),
]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_both_kinds_of_steps_agree(kind: str, changes: dict[str, object], softcap: float | None) -> None:
    """Over two turns: few rows, which all fit, then more than the hot set, and single tokens after each."""
    sinks = torch.linspace(-1.0, 1.0, HEADS * GROUP)
    params = AttentionParams(0.25, softcap, sinks)
    lengths = [20, *[1] * 30, 90, *[1] * 12]
    # All of the residents are chosen anew in each step of an exact hot set.
    most = 0.16 if changes.get("hot_policy") == "exact" else 0.12
    costs = []
    for seed in range(3):
        plain, ours = make_cache(kind, **changes), make_cache(kind, on_device=True, **changes)
        expected, found = play(plain, lengths, params, seed), play(ours, lengths, params, seed)
        if kind != "lrqk":
            assert (found - expected).norm() < 1e-5 * expected.norm()
            continue
        exact = play(make_cache("dense"), lengths, params, seed)
        assert (found - expected).norm() < most * exact.norm()
        costs.append(float((found - exact).norm() / (expected - exact).norm()))
    # Bins of scores take other rows of equal merit than scores do, which must cost nothing.
    assert not costs or sum(costs) < 1.1 * len(costs)
    assert ours.position.length == plain.position.length == int(ours.position.tensor) == sum(lengths)


def test_the_device_counts_what_it_fetches() -> None:
    plain, ours = make_cache("lrqk"), make_cache("lrqk", on_device=True)
    for cache in (plain, ours):
        play(cache, [120, *[1] * 8], AttentionParams(0.25))
    expected, found = plain.counters.take(), ours.counters.take()
    # Bins of scores are demanded whole, so a few rows less.
    assert 0.9 * expected.rows_wanted <= found.rows_wanted <= expected.rows_wanted
    assert found.rows_fetched == pytest.approx(expected.rows_fetched, rel=0.15)
    assert ours.counters.take().rows_wanted == 0


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let steps on the CPU run the kernels, not their references."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels read the CPU's memory in Triton's interpreter only")
    for name in ("append_token", "score_tokens", "select_rows", "replace_rows", "attend_residents"):
        kernel = getattr(import_module(f"lrqk_cli.kernels.{name}.triton"), name)
        monkeypatch.setattr(kernels, name, kernel)


@pytest.mark.parametrize(("kind", "changes"), [("dense", {}), ("lrqk", {}), ("lrqk", {"index_bits": 4})])
def test_the_kernels_serve_a_step_as_their_references_do(
    kind: str, changes: dict[str, object], request: pytest.FixtureRequest
) -> None:
    lengths, params = [60, 1, 1, 1], AttentionParams(0.25)

    def steps() -> Tensor:
        return play(make_cache(kind, on_device=True, **changes), lengths, params)

    expected = steps()
    request.getfixturevalue("interpreted")
    torch.testing.assert_close(steps(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("launch", ["count_missing", "list_fetches"])
@pytest.mark.parametrize("way", ["rewind", "reset"])
def test_a_step_that_ends_between_launches_leaves_no_counts(launch: str, way: str) -> None:
    """Else the next step would fetch more rows than it lists, by undefined numbers of tokens."""
    params = AttentionParams(0.25)

    def outputs(*, fails: bool) -> Tensor:
        cache = make_cache("lrqk", on_device=True)
        play(cache, [60, 1], params)
        point = cache.rewind_point()
        if fails:
            module = import_module("lrqk_cli.kernels.select_rows.triton")
            full = patch.object(module, launch, {})  # has no launch for any grid
            with full, pytest.raises(KeyError):
                play(cache, [1], params, seed=1)
        if way == "reset":
            cache.reset()
            play(cache, [60, 1], params)
        else:
            cache.rewind(point)
        return play(cache, [1, 1, 1], params, seed=2)

    assert torch.equal(outputs(fails=True), outputs(fails=False))
