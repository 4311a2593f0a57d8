"""The speed suite: its plan, its figures, and what it does with a mode that does not fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import random_tokens, tiny_model

from lrqk_cli.attention import cache
from lrqk_cli.bench.modes import named_modes
from lrqk_cli.bench.speed import measure as measuring
from lrqk_cli.bench.speed.measure import SpeedSubject, measure, warm_up_tokens
from lrqk_cli.bench.speed.plan import SpeedPlan
from lrqk_cli.bench.speed.results import SpeedResult
from lrqk_cli.bench.speed.runners import EagerRunner, open_runner
from lrqk_cli.bench.text import random_tokens as token_ids
from lrqk_cli.bench.text import synthetic_tokens
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.memory import accounting
from lrqk_cli.memory.activations import stream_rows
from lrqk_cli.memory.roofline import Bandwidth
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.support import spec_from_config

SETTINGS = LrqkConfig(hot=32, top_k=16, recent=8, rank=4, segment=40)
MODES = ("lrqk", "dense", "dense-eager", "offload", "paper", "paper-no-hit-miss")
PLAN = SpeedPlan(MODES, (122,), new_tokens=5, repeat=2)


def subject_for(plan: SpeedPlan, **changes: object) -> SpeedSubject:
    model = tiny_model("llama", **changes)
    spec = spec_from_config(model.config, "tiny")
    modes = named_modes(plan.modes, SETTINGS, max(plan.contexts))
    return SpeedSubject(model, spec, modes, random_tokens(128).tolist(), Bandwidth(1e9, None))


def run(plan: SpeedPlan, **changes: object) -> dict[str, SpeedResult]:
    results = measure(subject_for(plan, **changes), plan, lambda _: None)
    return {result.mode: result for result in results}


def test_each_mode_gives_figures_and_every_sample() -> None:
    results = run(PLAN)
    assert tuple(results) == MODES
    for result in results.values():
        assert (result.ctx, result.prompt_tokens) == (122, 122)
        assert (result.prefill_test, result.decode_test) == ("pp122", "tg5 @ d122")
        assert len(result.decode_samples_ms) == PLAN.repeat * PLAN.new_tokens
        assert len(result.prefill_samples_s) == len(result.ttft_samples_s) == PLAN.repeat
        runs = result.decode_samples_ms[:5], result.decode_samples_ms[5:]
        speeds = [1000 * len(steps) / sum(steps) for steps in runs]
        assert result.decode_tokens_per_s == pytest.approx(sum(speeds) / 2)
        assert result.ttft_s is not None
        assert result.ttft_s >= sum(result.prefill_samples_s) / 2
        assert result.error is result.note is None


def test_bytes_and_misses_are_those_of_the_mode() -> None:
    results = run(PLAN)
    lrqk, dense = results["lrqk"], results["dense"]
    spec = spec_from_config(tiny_model("llama").config, "tiny")
    sizes = accounting.kv_bytes(spec, SETTINGS, 122 + 6, "float32")
    assert (lrqk.host_kv_bytes, lrqk.index_bytes, lrqk.hot_bytes) == (sizes.host_kv, sizes.index, sizes.hot)
    for result in (dense, results["dense-eager"]):
        assert (result.host_kv_bytes, result.miss_rate, result.bytes_fetched_per_token) == (0, 0.0, 0.0)
    assert lrqk.miss_rate is not None
    assert 0.0 < lrqk.miss_rate < 1.0
    offload = results["offload"]
    assert offload.miss_rate == 1.0
    # Steps at depths 122 to 126: every earlier row, 2 layers, 2 KV heads, K and V of 8 floats.
    assert offload.bytes_fetched_per_token == 124 * 2 * 2 * 2 * 8 * 4


def test_transformers_as_shipped_answers_as_the_engine_does() -> None:
    subject = subject_for(PLAN)
    tokens = {}
    for mode in ("dense", "dense-eager"):
        with open_runner(mode, subject.model, subject.spec, subject.modes[mode], 128) as runner:
            before = subject.model.config._attn_implementation
            found = [runner.run(subject.prompt[:100], 20).tokens for _ in range(2)]
            assert found[0] == found[1]
            tokens[mode] = found[0]
            assert (before == "lrqk") == (mode == "dense")
    assert len(tokens["dense"]) == 21
    assert tokens["dense-eager"] == tokens["dense"]


def test_a_prompt_too_large_for_one_call_goes_through_in_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_for(PLAN)
    whole = EagerRunner(subject.model).run(subject.prompt[:100], 8)
    forward = subject.model.forward

    def refuse_long(input_ids: torch.Tensor, **others: object) -> object:
        if input_ids.shape[1] > 48:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(input_ids=input_ids, **others)

    monkeypatch.setattr(subject.model, "forward", refuse_long)
    runner = EagerRunner(subject.model)
    runner.segment = 48
    assert runner.run(subject.prompt[:100], 8).tokens == whole.tokens
    assert runner.note == "prefill in segments of 48 tokens"
    runner.segment = 64
    with pytest.raises(torch.OutOfMemoryError):
        runner.run(subject.prompt[:100], 8)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OutOfMemoryError, "No room."),
        (torch.OutOfMemoryError, "No room.\nMore."),
        (RuntimeError, "DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_mode_that_does_not_fit_says_so_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception], message: str
) -> None:
    make = cache.make_layers

    def refuse_dense(spec: ModelSpec, config: LrqkConfig, *rest: Any, **named: Any) -> object:
        if config.attention == "dense":
            raise failure(message)
        return make(spec, config, *rest, **named)

    monkeypatch.setattr(cache, "make_layers", refuse_dense)
    results = run(PLAN)
    assert results["dense"].error == f"does not fit: {message.splitlines()[0]}"
    assert results["dense"].decode_tokens_per_s is None
    assert [mode for mode in MODES if results[mode].error is None] == [m for m in MODES if m != "dense"]
    assert results["dense-eager"].decode_tokens_per_s is not None


def test_any_other_failure_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(measuring, "open_runner", fail)
    with pytest.raises(RuntimeError, match="broken"):
        run(PLAN)


@pytest.mark.parametrize("segment", [512, 2048, 8192, 20_000])
def test_a_gpu_has_merged_chunks_in_every_way_before_a_figure_is_taken(segment: int) -> None:
    earlier = warm_up_tokens(segment, torch.device("cuda")) - segment
    assert math.ceil(earlier / stream_rows(segment)) >= 3
    assert warm_up_tokens(segment, torch.device("cpu")) == 2 * segment


def test_a_prompt_leaves_the_models_limit_room_for_the_answer() -> None:
    plan = SpeedPlan(("lrqk",), (122,), new_tokens=5, repeat=1)
    result = run(plan, max_position_embeddings=100)["lrqk"]
    assert (result.ctx, result.prompt_tokens, result.decode_test) == (122, 94, "tg5 @ d94")
    with pytest.raises(UsageError, match="no room"):
        run(plan, max_position_embeddings=6)


@pytest.mark.parametrize(("new_tokens", "repeat", "modes"), [(0, 1, "lrqk"), (1, 0, "lrqk"), (1, 1, "dense")])
def test_a_plan_without_work_or_with_an_idle_cap_is_refused(new_tokens: int, repeat: int, modes: str) -> None:
    with pytest.raises(UsageError):
        SpeedPlan((modes,), (99,), new_tokens, repeat, memory_cap=1 << 30)


def test_made_up_text_is_as_long_as_asked_and_always_the_same() -> None:
    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    first = synthetic_tokens(encode, 5000)
    assert len(first) == 5000
    assert first == synthetic_tokens(encode, 5000)
    assert first != synthetic_tokens(encode, 5000, seed=1)


def test_random_tokens_are_of_the_vocabulary_and_always_the_same() -> None:
    tokens = token_ids(97, 2000)
    assert len(tokens) == 2000
    assert set(tokens) == set(range(97))
    assert tokens == token_ids(97, 2000)


def test_a_limit_of_the_device_holds_for_all_modes_and_a_cap_for_lrqk():
    gib = 1 << 30
    plan = SpeedPlan(("lrqk", "dense"), (99,), 5, 1, memory_cap=4 * gib, vram=8 * gib)
    assert plan.cap_of("lrqk") == 4 * gib
    assert plan.cap_of("dense") == 8 * gib - (800 << 20)
    assert SpeedPlan(("dense",), (99,), 5, 1).cap_of("dense") is None
