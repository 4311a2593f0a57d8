"""Drafts by lookup: what is found, what it costs, and that answers are the same as without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import pytest
from constraints import Allowed
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCABULARY, random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.decode import Decoder
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.lookup import ALLOWANCE, MOST_CREDIT, NEWEST, VERIFY_COST, Lookup, TokenSearch
from lrqk_cli.models.support import spec_from_config

CONTEXT = 480
WITH = LrqkConfig(hot=CONTEXT, top_k=32, recent=8, rank=8, segment=64)
WITHOUT = replace(WITH, lookup=0)
REPEATING = random_tokens(24).tolist() * 5
LONG = GenerationConfig(max_new_tokens=256)


def expected_place(tokens: Sequence[int]) -> int | None:
    newest = list(tokens[-NEWEST:])
    for end in range(len(tokens) - 1, NEWEST - 1, -1):
        if list(tokens[end - NEWEST : end]) == newest:
            return end
    return None


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.lists(st.integers(0, 2), max_size=30), st.integers(0, 60)), max_size=12),
    st.booleans(),
)
def test_the_newest_earlier_occurrence_is_found_in_a_text_that_grows_and_shrinks(
    changes: list[list[int] | int], prepares: bool
) -> None:
    search, tokens = TokenSearch(), list[int]()
    for change in changes:
        if isinstance(change, int):
            del tokens[change:]
            search.cut(len(tokens))
        else:
            tokens += change
        search.follow(tokens)
        if len(tokens) >= NEWEST:
            assert search.find() == expected_place(tokens)
        if prepares:
            search.prepare()


def test_a_collision_of_hashes_is_no_occurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrqk_cli.engine.lookup._hashes", lambda tokens: 0 * tokens[NEWEST - 2 :])
    search = TokenSearch()
    search.follow([*range(40), *range(5, 13)])
    assert search.find() == 13


def test_a_text_with_a_period_goes_on() -> None:
    assert Lookup([7] * 20).find(3) == [7, 7, 7]
    assert Lookup([1, 2] * 10).find(3) == [1, 2, 1]


def answer_cost(prompt: list[int], answer: Sequence[int], drafts: int = 3) -> tuple[float, int]:
    """Return the cost of an answer in plain steps, and the accepted drafts, as a decoder would have them."""
    tokens, place, cost, accepted = [*prompt], 0, 0.0, 0
    lookup = Lookup(tokens)
    while place < len(answer):
        tokens.append(answer[place])
        place += 1
        offered = lookup.find(drafts)
        lookup.prepare()
        cost += VERIFY_COST if offered else 1.0
        for draft in offered:
            if place == len(answer) or draft != answer[place]:
                break
            tokens.append(answer[place])
            place, accepted = place + 1, accepted + 1
    return cost, accepted


def test_a_copy_is_followed() -> None:
    text = random_tokens(400, seed=3).tolist()
    cost, accepted = answer_cost(text, text[100:356])
    assert accepted >= 0.7 * 256
    # Four tokens for each verify step, and a few plain ones.
    assert cost < (VERIFY_COST / 4 + 0.05) * 256


def test_a_copy_with_other_line_ends_goes_on_after_them() -> None:
    text = random_tokens(400, seed=3).tolist()
    copy = text[50:306]
    for end in range(12, len(copy) - 1, 12):
        # A line end and the word after it become one other token, or two.
        copy[end : end + 2] = [98] if end % 24 else [98, 99]
    cost, accepted = answer_cost(text, copy)
    lines = len(copy) // 12
    # A few plain steps a line; without going on, all eight tokens of each line would be looked for.
    assert cost < len(copy) / 4 * VERIFY_COST + 4 * lines
    assert accepted >= 0.4 * len(copy)


def test_a_source_that_does_not_agree_again_is_left() -> None:
    text = random_tokens(400, seed=3).tolist()
    lookup = Lookup(tokens := [*text, *text[100:120]])
    assert lookup.find(3) == text[120:123]
    other = random_tokens(40, seed=9).add(100).tolist()
    for token in other:
        tokens.append(token)
        assert lookup.find(3) == []
    # It agrees too late.
    for token in text[122:126]:
        tokens.append(token)
        assert lookup.find(3) == []


def misleading(count: int) -> tuple[list[int], list[int]]:
    """A text in which the newest tokens always occurred before, and always go on otherwise."""
    answer = random_tokens(count, seed=5).tolist()
    text = list[int]()
    for end in range(NEWEST, count):
        text += [*answer[end - NEWEST : end], 1]
    return text, answer


def test_misleading_drafts_cost_at_most_what_is_allowed() -> None:
    text, answer = misleading(1000)
    cost, accepted = answer_cost(text, answer)
    assert accepted == 0
    assert 1000 < cost <= 1000 * (1 + ALLOWANCE) + MOST_CREDIT + VERIFY_COST - 1
    assert 1000 / cost >= 0.98


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=200), st.integers(0, 100), st.integers(1, 7))
def test_no_answer_costs_more_than_the_formula_says(answer: list[int], prompt: int, drafts: int) -> None:
    text = random_tokens(prompt).remainder(2).tolist()
    cost, _ = answer_cost(text, answer, drafts)
    assert cost <= len(answer) * (1 + ALLOWANCE) + MOST_CREDIT + VERIFY_COST - 1


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture(params=[False, True], ids=["waits", "runs-ahead"])
def runs_ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # A captured step runs while the caller shows the token before it; a CPU's would let the caller wait.
    monkeypatch.setattr(Decoder, "is_captured", request.param)


def opened(model: PreTrainedModel, config: LrqkConfig, prompt: Sequence[int] = REPEATING) -> Engine:
    engine = Engine(model, spec_from_config(model.config, "tiny"), config, CONTEXT)
    list(engine.prefill(prompt))
    return engine


def answer(engine: Engine, generation: GenerationConfig = LONG) -> list[int]:
    return [step.token for step in engine.generate(generation, ())]


GENERATIONS = [
    LONG,
    replace(LONG, repetition_penalty=1.05),
    replace(LONG, temperature=0.4, seed=3),
    replace(LONG, temperature=0.3, seed=4, top_p=0.9, sample_top_k=5),
]


@pytest.mark.usefixtures("runs_ahead")
@pytest.mark.parametrize("generation", GENERATIONS, ids=["greedy", "penalty", "sampled", "nucleus"])
def test_answers_are_the_same_with_and_without(model: PreTrainedModel, generation: GenerationConfig) -> None:
    with opened(model, WITHOUT) as engine:
        expected, plain = answer(engine, generation), engine.totals
    with opened(model, WITH) as engine:
        assert answer(engine, generation) == expected
        if generation is LONG:  # greedy answers of a small model fall into a loop
            assert engine.totals.drafts_accepted > 50
        assert engine.cache.position.pending == 0
    assert plain.drafts_offered == 0


@pytest.mark.usefixtures("runs_ahead")
def test_an_answer_under_a_constraint_is_the_same_with_and_without(model: PreTrainedModel) -> None:
    tokens, logprobs = list[list[int]](), list[list[float]]()
    for config in (WITHOUT, WITH):
        with opened(model, config) as engine:
            constraint = Allowed(VOCABULARY, range(0, VOCABULARY, 3))
            noted = [step.logprobs for step in engine.generate(LONG, (), constraint, 2)]
            tokens.append([each.token for each in noted if each is not None])
            logprobs.append([each.logprob for each in noted if each is not None])
            assert constraint.accepted == tokens[-1]
            accepted = engine.totals.drafts_accepted
    assert tokens[0] == tokens[1]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-3)
    assert accepted > 20


def accepted_steps(engine: Engine) -> Iterator[int]:
    """Yield an answer's tokens; the engine's cache has pending drafts at some of them."""
    for step in engine.generate(LONG, ()):
        yield step.token


@pytest.mark.usefixtures("runs_ahead")
@pytest.mark.parametrize("count", range(180, 186))
def test_an_answer_that_is_closed_has_the_yielded_tokens_and_goes_on(
    model: PreTrainedModel, count: int
) -> None:
    question = random_tokens(20, seed=9).tolist()
    after, both = replace(LONG, max_new_tokens=20), list[list[int]]()
    for config in (WITHOUT, WITH):
        with opened(model, config) as engine:
            steps = accepted_steps(engine)
            found = list(islice(steps, count))
            steps.close()
            assert list(engine.tokens) == REPEATING + found
            assert engine.cache.position.pending == 0
            assert engine.cache.position.length <= engine.length
            found += answer(engine, after)
            list(engine.prefill(question))
            both.append(found + answer(engine, after))
    assert both[0] == both[1]


def test_a_turn_is_taken_back_and_answered_anew(model: PreTrainedModel) -> None:
    with opened(model, WITH) as engine:
        point = engine.rewind_point()
        first = answer(engine)
        engine.rewind(point)
        assert answer(engine) == first
        engine.rewind(point)
        steps = engine.generate(LONG, ())
        assert [step.token for step in islice(steps, 150)] == first[:150]
        engine.rewind(point)
        steps.close()
        assert answer(engine) == first


def test_what_the_caller_appends_takes_the_place_of_drafts(model: PreTrainedModel) -> None:
    own, both = random_tokens(3, seed=8).tolist(), list[list[int]]()
    for config in (WITHOUT, WITH):
        with opened(model, config) as engine:
            found = []
            for number, step in enumerate(engine.generate(replace(LONG, max_new_tokens=200), ())):
                found.append(step.token)
                if number in (150, 170):
                    for token in own:
                        engine.append(token)
            both.append(found)
    assert both[0] == both[1]


def test_the_end_of_the_context_is_reached_as_without(model: PreTrainedModel) -> None:
    whole = GenerationConfig()
    with opened(model, WITHOUT) as engine:
        expected = answer(engine, whole)
    with opened(model, WITH) as engine:
        assert answer(engine, whole) == expected
        assert engine.length == CONTEXT
