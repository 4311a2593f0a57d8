"""The paper's mode step by step against the paper's equations in float64 (tests/paper.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from paper import Matrix, PaperHead, Weights, columns
from torch import Tensor

from lrqk_cli.attention import als
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.projection import AlsProjector
from lrqk_cli.config import AlsConfig, AlsPenalties, LrqkConfig
from lrqk_cli.engine.attach import attach
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.loading import choose_device, load, resolve
from lrqk_cli.upstream import cache_argument

STEPS = 70
TOP_K, RECENT = 48, 12
# Relative errors: of most steps; of 99 in 100; of the worst, which depends on how a CPU rounds; of the start,
# from float32 sums and in bfloat16.
TYPICAL, LARGE, LARGEST, START = 1e-4, 1e-2, 1e-1, 1e-3


class Rows(NamedTuple):
    """Q ``[KV, G, n, d]``, K and V ``[KV, n, d]`` of one layer."""

    query: Tensor
    key: Tensor
    value: Tensor


def random_rows(count: int, seed: int = 0, heads: int = 2, group: int = 3, width: int = 24) -> Rows:
    """Rows with a spectrum that decays, a common key, and neighbours that resemble each other."""
    random = torch.Generator().manual_seed(seed)

    def draw(*batch: int) -> Tensor:
        mixing = torch.randn(*batch, width, width, generator=random)
        scales = torch.logspace(0.3, -1.0, width)
        noise = torch.randn(*batch, count, width, generator=random)
        return (noise + 0.7 * noise.roll(1, -2)) * scales @ mixing

    return Rows(draw(heads, group).double(), draw(heads).double() + 1.5, draw(heads).double())


def spec_of(rows: Rows, context: int) -> ModelSpec:
    heads, group, _, width = rows.query.shape
    return ModelSpec("t", "t", ("full",), heads * group, heads, width, 8, 8, 97, context, context, 1)


class Player:
    """A layer that is fed rows: a prompt in segments, then token by token."""

    def __init__(self, rows: Rows, prompt: int, settings: LrqkConfig, scaling: float) -> None:
        self.rows, self.params = rows, AttentionParams(scaling)
        context = rows.key.shape[1]
        cpu = torch.device("cpu")
        self.cache = LrqkCache(spec_of(rows, context), settings, context, torch.float64, cpu)
        self.layer = self.cache.attention_layers[0]
        with self.cache.prefilling():
            for start in range(0, prompt, 90):
                self.feed(start, min(prompt, start + 90))
        self.cache.finish_prefill()

    def feed(self, start: int, stop: int) -> Tensor:
        key, value = self.rows.key[:, start:stop], self.rows.value[:, start:stop]
        self.cache.update(key[None], value[None], 0)
        return self.cache.attend(0, self.rows.query[:, :, start:stop], key, value, self.params)


def oracles(rows: Rows, prompt: int, settings: LrqkConfig, scaling: float, starts: list) -> list[PaperHead]:
    heads, group = rows.query.shape[:2]
    penalties = settings.als.penalties
    found = []
    for head in range(heads * group):
        query, key, value = (
            part[:prompt].double().numpy()
            for part in (rows.query.flatten(0, 1)[head], rows.key[head // group], rows.value[head // group])
        )
        start = starts[head] if starts else columns(query, key, settings.rank, settings.als.init)
        found.append(
            PaperHead(
                query,
                key,
                value,
                start,
                settings.top_k,
                settings.recent,
                scaling,
                settings.als.iterations,
                settings.als.tolerance,
                Weights(penalties.query, penalties.key, penalties.new, penalties.active),
            )
        )
    return found


def paper_config(rank: int, **changes: object) -> LrqkConfig:
    return LrqkConfig(
        rank=rank,
        index_bits=16,
        top_k=TOP_K,
        recent=RECENT,
        tail="none",
        solver="als",
        grouping="head",
        hot_policy="exact",
        als=AlsConfig(**changes),
    )


def error(actual: Tensor | Matrix, expected: Matrix) -> float:
    return float(np.linalg.norm(np.asarray(actual) - expected) / max(np.linalg.norm(expected), 1e-12))


def are_best(chosen: set[int], scores: Matrix) -> bool:
    """No token has a score above that of a chosen one, up to the rounding of a sum in float32."""
    others = np.delete(scores, sorted(chosen))
    return bool(others.max() <= min(scores[token] for token in chosen) + 1e-5 * scores.std())


def check_steps(
    rows: Rows,
    settings: LrqkConfig,
    scaling: float,
    monkeypatch: pytest.MonkeyPatch,
    starts: list | None = None,
) -> None:
    """Feed the layer and the oracles the same tokens, and compare everything at every step.

    Both run freely. The recursion makes much of a code's last bit, so a single step may differ by more than
    the typical one: hence three bounds.
    """
    prompt = rows.key.shape[1] - STEPS
    player = Player(rows, prompt, settings, scaling)
    layer, projector = player.layer, player.layer.projector
    assert isinstance(projector, AlsProjector)
    heads = oracles(rows, prompt, settings, scaling, starts or [])
    found: dict[str, list[float]] = {}

    def note(what: str, actual: Tensor | Matrix, expected: Matrix) -> None:
        found.setdefault(what, []).append(error(actual, expected))

    for number, head in enumerate(heads):
        assert error(projector.query_basis[number], head.query_basis) < START
        assert error(projector.key_basis[number], head.key_basis) < START
        assert error(layer.index.codes[number, :prompt].float(), head.index) < START
        assert len({*layer.hot.slot_token[number].tolist()} ^ head.chosen) <= 2
        # What rounding has made of the start is the layer's own affair; from here both run by themselves.
        head.query_basis = projector.query_basis[number].double().numpy()
        head.key_basis = projector.key_basis[number].double().numpy()
        head.index = layer.index.codes[number, :prompt].double().numpy()
        head.chosen = {*layer.hot.slot_token[number].tolist()}
    codes: list = []
    real = projector.step
    monkeypatch.setattr(projector, "step", lambda *a: codes.append(real(*a)) or codes[-1])
    group, fetched, moved = rows.query.shape[1], 0, 0
    for token in range(prompt, prompt + STEPS):
        before = [set(held.tolist()) for held in layer.hot.slot_token]
        output = player.feed(token, token + 1).flatten(0, 1)[:, 0]
        query_code, key_code = codes[-1]
        for number, head in enumerate(heads):
            row = (
                rows.query.flatten(0, 1)[number, token],
                rows.key[number // group, token],
                rows.value[number // group, token],
            )
            step = head.step(*(part.double().numpy() for part in row))
            note("q̂", query_code.codes[number, 0], step.query_code)
            note("k̂", key_code[number, 0], step.key_code)
            note("B_Q", projector.query_basis[number], head.query_basis)
            note("B_K", projector.key_basis[number], head.key_basis)
            index = layer.index.codes[number, : head.length].float()
            scores = index @ query_code.codes[number, 0].float()
            note("scores", scores, step.scores)
            chosen = set(layer.hot.slot_token[number].tolist())
            assert len(chosen) == TOP_K
            # The best by scores that are close to the oracle's (see the bounds below).
            assert are_best(chosen, scores[: head.length - RECENT].double().numpy())
            note("output", output[number], head.attend(row[0].double().numpy(), chosen))
            fetched += len(chosen - before[number])
            moved += len(chosen ^ step.chosen)
            # A tie that fell the other way is not an error, and the next step begins from one set.
            head.chosen = chosen
    stats = layer.take_stats()
    assert stats.rows_fetched == fetched
    assert stats.rows_wanted == STEPS * len(heads) * TOP_K
    assert moved <= 0.001 * STEPS * len(heads) * TOP_K
    for what, errors in found.items():
        assert np.median(errors) < TYPICAL, what
        assert np.quantile(errors, 0.99) < LARGE, what
        assert max(errors) < LARGEST, what


@pytest.mark.parametrize(
    "changes",
    [
        {"init": "top"},
        {"init": "topcol"},
        {"init": "topcol", "iterations": 5, "tolerance": 0.5},
        {"init": "top", "penalties": AlsPenalties(0.3, 2.0, 5.0, 0.1)},
    ],
)
def test_every_step_is_that_of_the_equations(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(200 + STEPS)
    check_steps(rows, paper_config(6, **changes), 24**-0.5, monkeypatch)


def with_this_sketch(sketch: als.Sketch, number: int, rows: Matrix) -> Matrix:
    """An A ``[n, r]`` with ``AᵀA`` and ``AᵀX`` as in the sketch."""
    gram, cross = sketch.gram[number].numpy(), sketch.cross[number].numpy()
    inside = np.linalg.lstsq(rows.T @ rows, cross.T, rcond=None)[0]
    outside = np.linalg.cholesky(gram - cross @ inside)
    basis, _ = np.linalg.qr(np.concatenate([rows, np.eye(*rows.shape, -rows.shape[1])], 1))
    return rows @ inside + basis[:, rows.shape[1] : rows.shape[1] + len(gram)] @ outside.T


def drawn_starts(rows: Rows, prompt: int, sketches: list[als.Sketch]) -> list:
    group = rows.query.shape[1]
    return [
        (
            with_this_sketch(sketches[0], number, query[:prompt].double().numpy()),
            with_this_sketch(sketches[1], number, rows.key[number // group, :prompt].double().numpy()),
        )
        for number, query in enumerate(rows.query.flatten(0, 1))
    ]


@pytest.fixture
def sketches(monkeypatch: pytest.MonkeyPatch) -> list[als.Sketch]:
    """What ``random_sketch`` has drawn."""
    drawn: list[als.Sketch] = []
    real: Callable[..., als.Sketch] = als.random_sketch
    monkeypatch.setattr(als, "random_sketch", lambda *a: drawn.append(real(*a)) or drawn[-1])
    return drawn


def test_every_step_after_a_random_start_is_that_of_the_equations(
    sketches: list[als.Sketch], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(200 + STEPS, seed=1)
    settings = paper_config(6)
    Player(rows, 200, settings, 1.0)
    starts = drawn_starts(rows, 200, sketches)
    check_steps(rows, settings, 24**-0.5, monkeypatch, starts)


# Layers that differ: the first, whose attention is flat, and one in the middle.
@pytest.mark.model
@pytest.mark.parametrize("init", ["randn", "top", "topcol"])
@pytest.mark.parametrize("layer", [0, 14])
def test_every_step_on_rows_of_a_real_model(
    layer: int,
    init: str,
    shared_data: Path,
    sketches: list[als.Sketch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, scaling = captured(layer, 300 + STEPS, shared_data / "text" / "wikitext2-test.txt")
    settings = paper_config(16, init=init)
    starts = None
    if init == "randn":
        Player(rows, 300, settings, scaling)
        starts = drawn_starts(rows, 300, sketches)
    check_steps(rows, settings, scaling, monkeypatch, starts)


def captured(number: int, count: int, text: Path) -> tuple[Rows, float]:
    """Rows and scaling of one layer while a model reads a text."""
    loaded = load(resolve("smollm2-135m"), choose_device("cpu"))
    tokens = torch.tensor(loaded.tokenizer.encode(text.read_text(encoding="utf-8")[:8000])[:count])
    seen: list = []
    with torch.no_grad(), attach(loaded.model, context=count) as cache, cache.prefilling():
        layer = cache.attention_layers[number]
        real = layer.attend_segment
        layer.attend_segment = lambda *a: seen.append(a) or real(*a)
        loaded.model(tokens.unsqueeze(0), **{cache_argument(): cache})
    query, key, value, params = seen[0]
    return Rows(query.double(), key.double(), value.double()), params.scaling
