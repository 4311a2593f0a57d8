"""The engine: what it yields, what it keeps, and that interruption and turns leave it exact."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from constraints import Allowed
from tiny import VOCABULARY, full_attention_logits, random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli.attention import layer_list
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.attach import attach
from lrqk_cli.engine.decode import Decoder
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.prefill import telling
from lrqk_cli.errors import ContextLengthError, OutOfMemoryError, UsageError
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.upstream import cache_argument

SETTINGS = LrqkConfig(hot=96, top_k=32, recent=8, segment=16)
GREEDY = GenerationConfig(max_new_tokens=6)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture(params=[False, True], ids=["waits", "runs-ahead"])
def engine(
    model: PreTrainedModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    # A captured step runs while the caller shows the token before it; a CPU's would let the caller wait.
    monkeypatch.setattr(Decoder, "is_captured", request.param)
    with Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, context=160) as engine:
        yield engine


def greedy_oracle(model: PreTrainedModel, tokens: list[int], count: int) -> list[int]:
    answer: list[int] = []
    for _ in range(count):
        logits = full_attention_logits(model, torch.tensor(tokens + answer))
        answer.append(int(logits[-1].argmax()))
    return answer


def test_prefill_reports_each_segment_and_generation_is_greedy(
    engine: Engine, model: PreTrainedModel
) -> None:
    prompt = random_tokens(40).tolist()
    progress = list(engine.prefill(prompt))
    assert [(item.done, item.total) for item in progress] == [(16, 40), (32, 40), (40, 40)]
    steps = list(engine.generate(GREEDY, stop_ids=()))
    assert [step.token for step in steps] == greedy_oracle(model, prompt, 6)
    assert [step.finish_reason for step in steps] == [None] * 5 + ["length"]
    assert engine.tokens == (*prompt, *(step.token for step in steps))


def test_on_a_cpu_each_layer_tells_how_far_a_segment_is(engine: Engine, model: PreTrainedModel) -> None:
    layers = model.config.num_hidden_layers
    told: list[int] = []
    before = sum(len(module._forward_hooks) for module in model.modules())
    for _ in engine.prefill(random_tokens(40).tolist(), on_layer=told.append):
        told.append(-1)
    segments = [[16 * k // (layers + 1) + start for k in range(1, layers + 1)] for start in (0, 16)]
    segments.append([8 * k // (layers + 1) + 32 for k in range(1, layers + 1)])
    assert told == [done for segment in segments for done in (*segment, -1)]
    assert sum(len(module._forward_hooks) for module in model.modules()) == before


def test_elsewhere_no_layer_is_watched(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU runs behind the calls: they would tell nothing, and cost time."""
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with telling(model, lambda _: None, 0, 16):
        assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_a_stop_token_is_reported_and_not_kept(engine: Engine, model: PreTrainedModel) -> None:
    prompt = random_tokens(40).tolist()
    expected = greedy_oracle(model, prompt, 3)
    list(engine.prefill(prompt))
    steps = list(engine.generate(GenerationConfig(), stop_ids={expected[-1]}))
    position = expected.index(expected[-1])
    assert [step.token for step in steps] == expected[: position + 1]
    assert steps[-1].finish_reason == "stop"
    assert engine.length == 40 + position


def test_an_answer_under_a_constraint_is_the_likeliest_that_it_allows(
    engine: Engine, model: PreTrainedModel
) -> None:
    prompt = random_tokens(40).tolist()
    list(engine.prefill(prompt))
    constraint = Allowed(VOCABULARY, range(0, VOCABULARY, 2))
    steps = list(engine.generate(GREEDY, (), constraint, 1))
    answer: list[int] = []
    for step in steps:
        logits = full_attention_logits(model, torch.tensor(prompt + answer))[-1]
        assert step.token == 2 * int(logits[::2].argmax())
        assert step.logprobs is not None
        assert step.logprobs.logprob == pytest.approx(float(logits.log_softmax(0)[step.token]), abs=1e-3)
        assert [token for token, _ in step.logprobs.top] == [int(logits.argmax())]
        answer.append(step.token)
    assert constraint.accepted == answer
    assert len(answer) == 6


def test_further_turns_continue_the_same_conversation(engine: Engine, model: PreTrainedModel) -> None:
    conversation = random_tokens(30).tolist()
    list(engine.prefill(conversation))
    for seed in (1, 2):
        conversation += [step.token for step in engine.generate(GREEDY, stop_ids=())]
        question = random_tokens(9, seed).tolist()
        list(engine.prefill(question))
        conversation += question
    answer = [step.token for step in engine.generate(GREEDY, stop_ids=())]
    assert answer == greedy_oracle(model, conversation, 6)


def test_a_prefill_that_was_stopped_goes_on_where_it_was(engine: Engine, model: PreTrainedModel) -> None:
    prompt = random_tokens(50).tolist()
    stopped = engine.prefill(prompt)
    next(stopped)
    stopped.close()
    assert engine.length == 16
    list(engine.prefill(prompt[engine.length :]))
    answer = [step.token for step in engine.generate(GREEDY, stop_ids=())]
    assert answer == greedy_oracle(model, prompt, 6)


def test_an_answer_that_was_stopped_stays_and_the_next_turn_follows(
    engine: Engine, model: PreTrainedModel
) -> None:
    conversation = random_tokens(30).tolist()
    list(engine.prefill(conversation))
    stopped = engine.generate(GREEDY, stop_ids=())
    conversation += [step.token for step in islice(stopped, 3)]
    stopped.close()
    question = random_tokens(5, 3).tolist()
    list(engine.prefill(question))
    conversation += question
    assert engine.tokens == tuple(conversation)
    answer = [step.token for step in engine.generate(GREEDY, stop_ids=())]
    assert answer == greedy_oracle(model, conversation, 6)


def test_a_caller_that_asks_for_the_next_logits_meanwhile_changes_nothing(
    engine: Engine, model: PreTrainedModel
) -> None:
    prompt = random_tokens(40).tolist()
    list(engine.prefill(prompt))
    answer = []
    for step in engine.generate(GREEDY, ()):
        answer.append(step.token)
        engine.next_logits()
    assert answer == greedy_oracle(model, prompt, 6)


def test_a_step_runs_ahead_only_where_something_follows(engine: Engine) -> None:
    list(engine.prefill(random_tokens(30).tolist()))
    fed = []
    for _ in engine.generate(GREEDY, stop_ids=()):
        fed.append(engine.cache.get_seq_length() - 30)
    ahead = int(engine._decoder.is_captured)
    assert fed == [*(count + ahead for count in range(5)), 5]


def test_the_context_limits_prompt_and_answer(engine: Engine) -> None:
    with pytest.raises(ContextLengthError):
        list(engine.prefill([5] * 161))
    assert engine.length == 0
    list(engine.prefill([5] * 158))
    steps = list(engine.generate(GenerationConfig(), stop_ids=()))
    assert [step.finish_reason for step in steps] == [None, "context"]
    with pytest.raises(ContextLengthError):
        next(engine.generate(GenerationConfig(), stop_ids=()))


def test_generation_needs_a_prompt(engine: Engine) -> None:
    with pytest.raises(UsageError):
        next(engine.generate(GREEDY, stop_ids=()))


def test_sampling_repeats_with_its_seed_and_differs_without(engine: Engine) -> None:
    list(engine.prefill(random_tokens(30).tolist()))
    cache_length = engine.length

    def sample(seed: int) -> int:
        # One token, closed before it goes through the model, and taken back.
        generation = GenerationConfig(temperature=3.0, top_p=0.95, sample_top_k=50, seed=seed)
        token = next(engine.generate(generation, stop_ids=range(97))).token
        assert engine.length == cache_length
        return token

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(12)}) > 1


def test_repetition_penalty_keeps_words_of_the_context_out(engine: Engine) -> None:
    list(engine.prefill([*range(3, 50), 7]))
    engine.logits = torch.linspace(1.0, 0.5, 97)
    every = range(97)
    assert next(engine.generate(GREEDY, stop_ids=every)).token == 0
    engine.logits = torch.linspace(1.0, 0.5, 97).roll(10)
    assert next(engine.generate(GREEDY, stop_ids=every)).token == 10
    penalised = GenerationConfig(repetition_penalty=5.0)
    assert next(engine.generate(penalised, stop_ids=every)).token == 50


def test_counters_and_memory_are_those_of_the_cache(engine: Engine) -> None:
    list(engine.prefill(random_tokens(120).tolist()))
    list(engine.generate(GenerationConfig(max_new_tokens=5), stop_ids=()))
    assert engine.totals.steps == 4
    assert engine.totals.row_sets == 4 * 2 * 2
    assert engine.totals.rows_wanted == 4 * 2 * 2 * 32
    assert engine.totals.bytes_fetched == engine.totals.rows_fetched * 2 * 8 * 4
    memory = engine.memory()
    assert memory.host_kv_bytes == layer_list.host_kv_bytes(engine.cache.attention_layers) > 0
    weights = [*engine.model.parameters(), *engine.model.buffers()]
    assert memory.weight_bytes == sum(tensor.nbytes for tensor in weights)


def test_closing_gives_the_model_back(model: PreTrainedModel) -> None:
    before = model.config._attn_implementation
    with Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, context=32):
        assert model.config._attn_implementation == "lrqk"
    assert model.config._attn_implementation == before
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("attention", ["lrqk", "dense"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_after_a_reset_nothing_is_left_of_the_conversation(family: str, attention: str) -> None:
    subject = tiny_model(family)
    settings = LrqkConfig(attention=attention, hot=24, top_k=8, recent=8, segment=16)  # type: ignore[arg-type]
    spec = spec_from_config(subject.config, "tiny")
    prompt = random_tokens(90, seed=5).tolist()

    def logits(engine: Engine) -> torch.Tensor:
        list(engine.prefill(prompt))
        found = []
        for token in (3, 7, 11):
            found.append(engine.next_logits().clone())
            engine.append(token)
        return torch.stack(found)

    with Engine(subject, spec, settings, context=160) as used, Engine(subject, spec, settings, 160) as fresh:
        list(used.prefill(random_tokens(120, seed=6).tolist()))
        list(used.generate(GREEDY, stop_ids=()))
        used.reset()
        assert used.tokens == ()
        assert torch.equal(logits(used), logits(fresh))
        assert used.totals.steps == 0


def test_the_model_is_given_back_where_there_is_no_memory_for_the_cache(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OutOfMemoryError("No.", "Wait.")

    before = model.config._attn_implementation
    monkeypatch.setattr("lrqk_cli.engine.generate.LrqkCache", refuse)
    with pytest.raises(OutOfMemoryError) as caught:
        Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, context=160)
    assert caught.value.message == "No."
    assert model.config._attn_implementation == before


def test_from_python_a_hint_names_the_argument(model: PreTrainedModel) -> None:
    with (
        attach(model, SETTINGS, context=8) as cache,
        torch.no_grad(),
        pytest.raises(ContextLengthError) as refusal,
    ):
        model(random_tokens(16).unsqueeze(0), **{cache_argument(): cache})
    assert refusal.value.hint == "Raise `context`."
