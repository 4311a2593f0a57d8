"""Decode steps whose lengths live on the device, beside those whose lengths live on the host."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.decode_step import DeviceState
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.layers import AttentionLayer, FullLayer, SlidingLayer
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.config import LrqkConfig, ModelSpec

HEADS, GROUP, WIDTH, CONTEXT = 2, 3, 16, 512
SPEC = ModelSpec("t", "t", ("full",), HEADS * GROUP, HEADS, WIDTH, 96, 64, 97, CONTEXT, CONTEXT, 1)
CPU = torch.device("cpu")


def make_layer(kind: str, **changes: object) -> AttentionLayer:
    if kind == "sliding":
        return SlidingLayer(SPEC, 24, torch.float32, CPU)
    if kind == "dense":
        return FullLayer(SPEC, RowStore(SPEC, CONTEXT, torch.float32, CPU, on_device=True))
    sizes = {"hot": 32, "top_k": 12, "recent": 8, "rank": 8, "index_bits": 8}
    settings = LrqkConfig(**{**sizes, **changes})  # type: ignore[arg-type]
    return LrqkLayer(SPEC, settings, CONTEXT, torch.float32, CPU)


def play(layer: AttentionLayer, lengths: list[int], params: AttentionParams, seed: int = 0) -> Tensor:
    """Feed segments and single tokens; return the outputs of all, one after another."""
    random = torch.Generator().manual_seed(seed)
    outputs = []
    for count in lengths:
        query = torch.randn(HEADS, GROUP, count, WIDTH, generator=random) * 2
        key, value = torch.randn(2, HEADS, count, WIDTH, generator=random)
        layer.update(key.unsqueeze(0), value.unsqueeze(0))
        outputs.append(layer.attend(query, key, value, params))
        if count > 1:
            layer.finish_prefill()
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
    costs = []
    for seed in range(3):
        plain, ours = make_layer(kind, **changes), make_layer(kind, **changes)
        ours.use_device_steps(DeviceState(SPEC, CPU), 0, is_last=True)
        expected, found = play(plain, lengths, params, seed), play(ours, lengths, params, seed)
        if kind != "lrqk":
            assert (found - expected).norm() < 1e-5 * expected.norm()
            continue
        exact = play(make_layer("dense"), lengths, params, seed)
        assert (found - expected).norm() < 0.15 * exact.norm()
        costs.append(float((found - exact).norm() / (expected - exact).norm()))
    # Bins of scores take other rows of equal merit than scores do, which must cost nothing.
    assert not costs or sum(costs) < 1.1 * len(costs)
    assert ours.length == plain.length == sum(lengths)


def test_the_device_counts_what_it_fetches() -> None:
    plain, ours = make_layer("lrqk"), make_layer("lrqk")
    state = DeviceState(SPEC, CPU)
    ours.use_device_steps(state, 0, is_last=True)
    for layer in (plain, ours):
        play(layer, [120, *[1] * 8], AttentionParams(0.25))
    stats = plain.take_stats()
    [[wanted, fetched]] = state.take_totals()
    # Bins of scores are demanded whole, so a few rows less.
    assert 0.9 * stats.rows_wanted <= wanted <= stats.rows_wanted
    assert fetched == pytest.approx(stats.rows_fetched, rel=0.15)
    assert state.take_totals() == [[0, 0]]


@pytest.mark.parametrize(("kind", "changes"), [("dense", {}), ("lrqk", {}), ("lrqk", {"index_bits": 4})])
def test_the_kernels_serve_a_step_as_their_references_do(
    kind: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    lengths, params = [60, 1, 1, 1], AttentionParams(0.25)

    def steps() -> Tensor:
        layer = make_layer(kind, **changes)
        layer.use_device_steps(DeviceState(SPEC, CPU), 0, is_last=True)
        return play(layer, lengths, params)

    expected = steps()
    for name in ("append_token", "score_tokens", "select_rows", "replace_rows", "attend_residents"):
        kernel = getattr(import_module(f"lrqk_cli.kernels.{name}.triton"), name)
        monkeypatch.setattr(kernels, name, kernel)
    torch.testing.assert_close(steps(), expected, atol=1e-5, rtol=1e-4)
