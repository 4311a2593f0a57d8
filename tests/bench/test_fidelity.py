"""The fidelity measurement, and that it tells a good selection from a broken one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import random_tokens, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli import kernels
from lrqk_cli.attention import cache
from lrqk_cli.bench.collect import collect
from lrqk_cli.bench.fidelity import measure, results, run
from lrqk_cli.bench.fidelity.cases import Case
from lrqk_cli.bench.fidelity.results import FidelityResult
from lrqk_cli.bench.fidelity.run import run_fidelity
from lrqk_cli.bench.fidelity.suite import FidelitySuite
from lrqk_cli.bench.modes import everything_resident
from lrqk_cli.bench.suite import SuiteOptions
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.kernels.buffers import FetchPlan
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.loading import LoadedModel
from lrqk_cli.models.support import spec_from_config

CONTEXT, NEW_TOKENS = 512, 24
SMALL = LrqkConfig(hot=64, top_k=48, recent=16, rank=8, index_bits=8)
RESIDENT = everything_resident(SMALL, CONTEXT)
ASKED = SuiteOptions((CONTEXT,), tasks=("text",), samples=2, new_tokens=NEW_TOKENS)
BOUND = 0.01


def peaked_model() -> PreTrainedModel:
    """Return a model whose attention rests on few tokens, so that it matters which."""
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.mul_(6.0)
        layer.self_attn.k_proj.weight.mul_(6.0)
    return model


@torch.no_grad()
def loaded(stop_ids: Collection[int] = ()) -> LoadedModel:
    model = peaked_model()
    spec = spec_from_config(model.config, "tiny")
    tokenizer: Any = SimpleNamespace(decode=lambda tokens: f"<{tokens[0]}>")
    device = torch.device("cpu")
    return LoadedModel(model, tokenizer, model.config, spec, frozenset(stop_ids), device, torch.float32)


def case(seed: int, turns: int = 1) -> Case:
    later = (random_tokens(20, seed + 100 + turn).tolist() for turn in range(turns - 1))
    return Case("text", (random_tokens(400, seed).tolist(), *later))


def answers(subject: LoadedModel, conversation: Case) -> list[measure.Reference]:
    with Engine(subject.model, subject.spec, LrqkConfig(attention="dense"), CONTEXT) as engine:
        return measure.full_attention(engine, subject, conversation, NEW_TOKENS)


def measured(
    monkeypatch: pytest.MonkeyPatch,
    modes: Mapping[str, LrqkConfig],
    *,
    stop_ids: Collection[int] = (),
    **plan: Any,
) -> list[FidelityResult]:
    """Run the suite on two conversations of random tokens."""
    whole = replace(ASKED, **plan)
    cases = [case(seed, whole.turns) for seed in range(2)]
    monkeypatch.setattr(run, "text_cases", lambda *_: cases)
    material: Any = None
    return list(run_fidelity(loaded(stop_ids), modes, whole, material, lambda _: None))


def test_with_everything_resident_only_rounding_is_left(monkeypatch):
    (result,) = measured(monkeypatch, {"resident": RESIDENT})
    assert abs(result.kl_mean) < 1e-6
    assert result.top1_agreement == 1.0
    assert result.rows_fetched_per_step == 0.0
    assert (result.samples, result.steps, result.turn) == (2, 2 * NEW_TOKENS, 1)


def test_a_small_hot_set_stays_close_and_says_what_it_takes(monkeypatch):
    (result,) = measured(monkeypatch, {"lrqk": SMALL})
    assert 0.0 < result.kl_mean < BOUND
    assert result.kl_max >= result.kl_mean
    assert 0.0 < result.rows_fetched_per_step < SMALL.top_k
    # 80 rows of 16 bytes times 4, and 8 bytes of index and a scale, against 512 rows.
    assert result.device_share == pytest.approx((80 * 64 + 512 * 8 + 32) / (512 * 64))
    # 2 layers and 2 KV heads.
    assert (result.index_bytes, result.hot_bytes) == (4 * (512 * 8 + 32), 4 * 80 * 64)


def test_a_broken_selection_does_not_pass(monkeypatch):
    def worst_first(scores: Tensor, resident: Tensor, slot_token: Tensor, wanted: int) -> FetchPlan:
        return real(-scores, resident, slot_token, wanted)

    real = kernels.plan_fetches
    monkeypatch.setattr(kernels, "plan_fetches", worst_first)
    (result,) = measured(monkeypatch, {"lrqk": SMALL})
    assert result.kl_mean > 2 * BOUND


def test_the_answer_ends_at_a_stop_token(monkeypatch):
    (result,) = measured(monkeypatch, {"lrqk": SMALL}, stop_ids=range(97))
    assert (result.samples, result.steps) == (2, 2)
    assert torch.isfinite(torch.tensor(result.kl_mean))


@torch.no_grad()
def test_full_attention_answers_every_turn_from_the_whole_conversation():
    """The distributions are those of the model itself on the same tokens, without any cache."""
    subject, conversation = loaded(), case(0, turns=3)
    references = answers(subject, conversation)
    tokens: list[int] = []
    for turn, reference in zip(conversation.turns, references, strict=True):
        tokens += turn
        logits = subject.model(torch.tensor([tokens + list(reference.answer)])).logits[0]
        expected = logits[len(tokens) - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(reference.log_probabilities, expected, atol=1e-4, rtol=1e-4)
        assert reference.answer == tuple(expected.argmax(-1).tolist())
        tokens += reference.answer


@torch.no_grad()
def test_a_stop_token_is_compared_but_does_not_enter_the_conversation():
    first = answers(loaded(), case(0))[0].answer
    stop = next(token for number, token in enumerate(first) if number >= 2 and token not in first[:number])
    subject, conversation = loaded({stop}), case(0, turns=2)
    references = answers(subject, conversation)
    assert references[0].answer == first[: first.index(stop) + 1]
    tokens = [*conversation.turns[0], *references[0].answer[:-1], *conversation.turns[1]]
    logits = subject.model(torch.tensor([tokens])).logits[0, -1]
    torch.testing.assert_close(
        references[1].log_probabilities[0], logits.log_softmax(-1), atol=1e-4, rtol=1e-4
    )


def test_every_turn_has_a_result_of_its_own(monkeypatch):
    found = measured(monkeypatch, {"lrqk": SMALL, "resident": RESIDENT}, turns=3)
    assert [(r.mode, r.turn) for r in found] == [(m, t) for m in ("lrqk", "resident") for t in (1, 2, 3)]
    for result in found:
        assert result.steps == 2 * NEW_TOKENS
    assert max(result.kl_mean for result in found if result.mode == "resident") < 1e-6
    assert len({result.kl_mean for result in found if result.mode == "lrqk"}) == 3
    together = results.overall(found)
    assert [(line.mode, line.turn) for line in together] == [(r.mode, r.turn) for r in found]


def test_the_worst_step_is_the_one_with_the_largest_divergence(monkeypatch):
    (result,) = measured(monkeypatch, {"lrqk": SMALL})
    worst, subject = result.worst, loaded()
    divergences = []
    for seed in range(2):
        references = answers(subject, case(seed))
        with Engine(subject.model, subject.spec, SMALL, CONTEXT) as engine:
            (comparison,) = measure.compare(engine, subject, case(seed), references, observe=False)
        divergences.append(comparison.divergence)
    assert worst.kl == result.kl_max == pytest.approx(float(torch.stack(divergences).max()))
    assert divergences[worst.sample - 1][worst.step - 1] == pytest.approx(worst.kl)
    assert worst.position == 400 + worst.step - 1
    assert worst.full_token.startswith("<")


def test_each_sample_has_figures_of_its_own_which_give_the_mean(monkeypatch):
    (found,) = measured(monkeypatch, {"lrqk": SMALL})
    assert len(found.by_sample) == found.samples == 2
    assert sum(sample.steps for sample in found.by_sample) == found.steps
    mean = sum(sample.steps * sample.kl_mean for sample in found.by_sample) / found.steps
    assert mean == pytest.approx(found.kl_mean, rel=1e-5)
    agreeing = sum(sample.steps * sample.top1_agreement for sample in found.by_sample)
    assert agreeing / found.steps == pytest.approx(found.top1_agreement, rel=1e-5)


def test_layers_are_looked_into_on_demand(monkeypatch):
    modes = {"lrqk": SMALL, "resident": RESIDENT}
    lrqk, resident = measured(monkeypatch, modes, layers=True)
    assert [layer.layer for layer in lrqk.layers] == [0, 1]
    for layer in resident.layers:
        assert layer.captured_mass_min == pytest.approx(1.0, abs=1e-4)
        assert layer.output_error_max < 1e-4
    for layer in lrqk.layers:
        assert 0.0 < layer.captured_mass_min < layer.captured_mass < 1.0
        assert 0.0 < layer.output_error < layer.output_error_max
    (unasked,) = measured(monkeypatch, {"lrqk": SMALL})
    assert unasked.layers == ()
    assert unasked.kl_mean == pytest.approx(lrqk.kl_mean)


def test_full_attention_answers_once_whatever_the_modes_and_equal_settings_are_measured_once(monkeypatch):
    calls = []
    for name in ("full_attention", "compare"):
        real = getattr(run, name)
        monkeypatch.setattr(
            run, name, lambda *a, real=real, name=name, **k: calls.append(name) or real(*a, **k)
        )
    found = measured(monkeypatch, {"lrqk": SMALL, "top-k=48": SMALL, "resident": RESIDENT})
    assert calls == ["full_attention"] * 2 + ["compare"] * 4
    assert found[0].kl_mean == found[1].kl_mean


def test_a_mode_that_runs_out_of_memory_says_so_and_the_others_go_on(monkeypatch):
    make = cache.make_layers

    def refuse(spec: ModelSpec, config: LrqkConfig, *rest: Any, **named: Any) -> Any:
        if config.hot == RESIDENT.hot:
            raise OutOfMemoryError("No room.")
        return make(spec, config, *rest, **named)

    monkeypatch.setattr(cache, "make_layers", refuse)
    resident, lrqk = measured(monkeypatch, {"resident": RESIDENT, "lrqk": SMALL})
    assert (resident.skipped, resident.kl_mean) == ("does not fit: No room.", None)
    assert lrqk.samples == 2


def test_where_full_attention_runs_out_of_memory_every_mode_says_so(monkeypatch):
    def refuse(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(run, "full_attention", refuse)
    (result,) = measured(monkeypatch, {"lrqk": SMALL})
    assert result.skipped == "full attention does not fit: CUDA out of memory."


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_complete_samples_outlive_what_ends_a_run(monkeypatch, end):
    real, calls = run.compare, []

    def stop_at_the_second(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 4:
            raise end
        return real(*arguments, **options)

    monkeypatch.setattr(run, "compare", stop_at_the_second)
    monkeypatch.setattr(run, "text_cases", lambda *_: [case(0), case(1)])
    material: Any = None
    modes = {"lrqk": SMALL, "resident": RESIDENT}
    found, ended_by = collect(run_fidelity(loaded(), modes, ASKED, material, lambda _: None))
    assert isinstance(ended_by, end)
    assert [(result.mode, result.samples) for result in found] == [("lrqk", 2), ("resident", 1)]


@pytest.mark.parametrize("name", ["samples", "new_tokens", "turns"])
def test_a_plan_without_work_is_refused(name):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} must"):
        FidelitySuite(replace(ASKED, **{name: 0}))
