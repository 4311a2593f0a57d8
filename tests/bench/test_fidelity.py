"""The fidelity measurement, and that it tells a good selection from a broken one."""

from __future__ import annotations

import pytest
import torch
from tiny import random_tokens, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli.bench import fidelity
from lrqk_cli.bench.fidelity import Case, FidelityResult, everything_resident
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels import dispatch
from lrqk_cli.models.support import spec_from_config

CONTEXT, NEW_TOKENS = 512, 24
SMALL = LrqkConfig(hot=64, top_k=48, recent=16, rank=8)
BOUND = 0.01


def peaked_model() -> PreTrainedModel:
    """Return a model whose attention rests on few tokens, so that it matters which."""
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.mul_(6.0)
        layer.self_attn.k_proj.weight.mul_(6.0)
    return model


@torch.no_grad()
def run(settings: LrqkConfig) -> FidelityResult:
    model = peaked_model()
    spec = spec_from_config(model.config, "tiny")
    cases = [Case("random", random_tokens(400, seed).tolist()) for seed in range(2)]
    (result,) = fidelity.measure(
        model, spec, {"lrqk": settings}, cases, CONTEXT, NEW_TOKENS, (), lambda _: None
    )
    return result


def test_with_everything_resident_only_rounding_is_left() -> None:
    result = run(everything_resident(SMALL, CONTEXT))
    assert abs(result.kl_mean) < 1e-6
    assert result.top1_agreement == 1.0
    assert result.rows_fetched_per_step == 0.0
    assert (result.samples, result.steps) == (2, 2 * NEW_TOKENS)


def test_a_small_hot_set_stays_close_and_says_what_it_takes() -> None:
    result = run(SMALL)
    assert 0.0 < result.kl_mean < BOUND
    assert result.kl_max >= result.kl_mean
    assert 0.0 < result.rows_fetched_per_step < SMALL.top_k
    # 80 rows of 16 bytes times 4, and 8 bytes of index and a scale, against 512 rows.
    assert result.device_share == pytest.approx((80 * 64 + 512 * 8 + 32) / (512 * 64))


def test_a_broken_selection_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def worst_first(scores: Tensor, resident: Tensor, slot_token: Tensor, wanted: int) -> dispatch.Fetches:
        return real(-scores, resident, slot_token, wanted)

    real = dispatch.plan_fetches
    monkeypatch.setattr(dispatch, "plan_fetches", worst_first)
    assert run(SMALL).kl_mean > 2 * BOUND


def test_the_answer_ends_at_a_stop_token() -> None:
    model = tiny_model("llama")
    spec = spec_from_config(model.config, "tiny")
    case = Case("random", random_tokens(50).tolist())
    (result,) = fidelity.measure(
        model, spec, {"lrqk": SMALL}, [case], CONTEXT, NEW_TOKENS, range(97), lambda _: None
    )
    assert result.steps == 1
    assert torch.isfinite(torch.tensor(result.kl_mean))
