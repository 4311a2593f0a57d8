"""The speed measurement: its plan, its figures, and what it does with a mode that does not fit."""

from __future__ import annotations

import pytest
from tiny import random_tokens, tiny_model

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.bench import speed
from lrqk_cli.bench.text import synthetic_tokens
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.memory import accounting
from lrqk_cli.models.support import spec_from_config

SETTINGS = LrqkConfig(hot=32, top_k=16, recent=8, rank=4)
PLAN = speed.Plan(("lrqk", "dense", "offload"), (128,), new_tokens=5, repeat=2)


def run(plan: speed.Plan) -> list[speed.SpeedResult]:
    model = tiny_model("llama")
    spec = spec_from_config(model.config, "tiny")
    prompt = random_tokens(128).tolist()
    return list(speed.measure(model, spec, SETTINGS, plan, prompt, lambda _: None))


def test_each_mode_gives_figures_and_every_sample() -> None:
    results = run(PLAN)
    assert [(result.mode, result.ctx) for result in results] == [(mode, 128) for mode in PLAN.modes]
    for result in results:
        assert result.prompt_tokens == 122
        assert len(result.decode_samples_ms) == PLAN.repeat * PLAN.new_tokens
        mean = sum(result.decode_samples_ms) / len(result.decode_samples_ms)
        assert result.decode_tokens_per_s == pytest.approx(1000 / mean)
        assert result.ttft_s is not None
        assert result.prefill_tokens_per_s is not None
        assert result.ttft_s >= 122 / result.prefill_tokens_per_s * 0.5


def test_bytes_and_misses_are_those_of_the_mode() -> None:
    lrqk, dense, offload = run(PLAN)
    spec = spec_from_config(tiny_model("llama").config, "tiny")
    sizes = accounting.kv_bytes(spec, SETTINGS, 128, "float32")
    assert (lrqk.host_kv_bytes, lrqk.index_bytes, lrqk.hot_bytes) == (sizes.host_kv, sizes.index, sizes.hot)
    assert (dense.host_kv_bytes, dense.miss_rate, dense.bytes_fetched_per_token) == (0, 0.0, 0.0)
    assert lrqk.miss_rate is not None
    assert 0.0 < lrqk.miss_rate < 1.0
    assert offload.miss_rate == 1.0
    # Steps at depths 122 to 126: every earlier row, 2 layers, 2 KV heads, K and V of 8 floats.
    assert offload.bytes_fetched_per_token == 124 * 2 * 2 * 2 * 8 * 4


def test_a_mode_that_does_not_fit_says_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    make = LrqkCache._make_layer

    def refuse_dense(self: LrqkCache, kind: str) -> object:
        if self.settings.attention == "dense":
            raise OutOfMemoryError("No room.")
        return make(self, kind)

    monkeypatch.setattr(LrqkCache, "_make_layer", refuse_dense)
    lrqk, dense, offload = run(PLAN)
    assert dense.error == "does not fit: No room."
    assert dense.decode_tokens_per_s is None
    assert lrqk.error is None
    assert offload.decode_tokens_per_s is not None


@pytest.mark.parametrize(
    ("contexts", "new_tokens", "repeat"), [((16,), 16, 1), ((4, 99), 3, 1), ((99,), 0, 1), ((99,), 1, 0)]
)
def test_a_plan_without_room_or_work_is_refused(
    contexts: tuple[int, ...], new_tokens: int, repeat: int
) -> None:
    with pytest.raises(UsageError):
        speed.Plan(("lrqk",), contexts, new_tokens, repeat)


def test_made_up_text_is_as_long_as_asked_and_always_the_same() -> None:
    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    first = synthetic_tokens(encode, 5000)
    assert len(first) == 5000
    assert first == synthetic_tokens(encode, 5000)
    assert first != synthetic_tokens(encode, 5000, seed=1)
