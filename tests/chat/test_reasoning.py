"""Reasoning is told from the answer, limited, and gone from the context when the next question is asked."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import dataclass, field

import pytest
import torch
from fake_chat import MARKS, FakeDocument, FakeEngine, FakePrompt, FakeStream, new_session
from thinking import MODES, TEMPLATES, Thinking, render_here, thinking_tokenizer
from tiny import tiny_model
from transformers import PreTrainedTokenizerFast

from lrqk_cli.chat.archive import make_archive
from lrqk_cli.chat.events import Answer, ReasoningDelta, Remark, TextDelta
from lrqk_cli.chat.reasoning import ReasoningSplitter
from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import Step
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import UsageError
from lrqk_cli.models.prompt import ChatPrompt, Detokenizer, stop_ids
from lrqk_cli.models.support import spec_from_config

THINK = GenerationConfig(think=None)
PROMPT = FakePrompt(marks=MARKS, thinks=True)


@pytest.fixture(autouse=True)
def quick_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrqk_cli.models.template.render", render_here)


@dataclass
class NotingEngine(FakeEngine):
    """Notes the tokens that it holds whenever an answer begins."""

    prompts: list[list[int]] = field(default_factory=list)
    constraints: list[object] = field(default_factory=list)

    def generate(
        self, generation: GenerationConfig, stop_ids: Collection[int], *demands: object
    ) -> Generator[Step, None, None]:
        if not self.said:
            self.prompts.append([*self.cached])
        self.constraints.append(demands[0])
        yield from super().generate(generation, stop_ids, *demands)


def answer_of(events) -> Answer:
    *_, last = events
    assert isinstance(last, Answer)
    return last


def said_in(session: Session) -> str:
    return "".join(map(chr, session.transcript))


def thinking(answer: str, generation: GenerationConfig = THINK, **settings) -> tuple[FakeEngine, Session]:
    engine = FakeEngine(answer, segment=100, **settings)
    return engine, new_session(engine, [FakeDocument("a.pdf", ["one"])], generation, prompt=PROMPT)


def templated(template: Thinking, said: str, thinks: bool) -> tuple[NotingEngine, Session, Detokenizer]:
    """Return a session whose model says ``said`` after what the template has begun."""
    tokenizer: PreTrainedTokenizerFast = thinking_tokenizer(template.text)
    tokens = tokenizer.encode(said, add_special_tokens=False)
    engine = NotingEngine("".join(map(chr, tokens)), context=5000, segment=1000)
    session = Session(
        engine,
        ChatPrompt(tokenizer, thinks=thinks),
        [FakeDocument("a.pdf", ["one"])],
        GenerationConfig(think=None if thinks else 0),
        stop_ids=stop_ids(tokenizer),
        trained_context=5000,
        max_context=5000,
        new_stream=lambda goes_on: Detokenizer(tokenizer, goes_on=goes_on),
    )
    return engine, session, tokenizer


@pytest.mark.parametrize("reasons", [True, False])
@pytest.mark.parametrize(("name", "thinks"), MODES)
def test_each_question_finds_the_context_that_its_template_renders(name: str, thinks: bool, reasons: bool):
    template = TEMPLATES[name]
    marks = ChatPrompt(thinking_tokenizer(template.text), thinks=thinks).reasoning
    said = "" if marks is None else marks.answer
    # What begins with reasoning ends it.
    reasons = marks is not None and (reasons or not marks.start)
    if marks is not None and reasons:
        said = f"{marks.start}So: 3.{marks.end}"
    engine, session, tokenizer = templated(template, f"{said}Three.{template.stop}", thinks)
    messages = list[dict[str, str]]()
    for number in range(3):
        content = f"{'[one]' * (not number)}Question {number}?"
        messages.append({"role": "user", "content": content})
        answer = answer_of(session.ask(f"Question {number}?"))
        assert (answer.text, answer.reasoning) == ("Three.", "So: 3." if reasons else "")
        assert (answer.finish_reason, answer.new_tokens) == ("stop", len("Three."))
        assert tokenizer.decode(engine.prompts[-1]) == template.render(tokenizer, messages, thinks)
        messages.append({"role": "assistant", "content": "Three."})
        if template.keeps and reasons:
            messages[-1]["reasoning"] = "So: 3."
    assert engine.resets == 0  # the document was never read again


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_constraint_holds_for_the_answer_alone(name: str, thinks: bool):
    template = TEMPLATES[name]
    marks = ChatPrompt(thinking_tokenizer(template.text), thinks=thinks).reasoning
    # The marks ahead of reasoning or of an answer are written for the model.
    reasons = marks is not None and (thinks or not marks.start)
    said = f"So: 3.{marks.end.rstrip()}" if marks is not None and reasons else ""
    engine, session, tokenizer = templated(template, f"{said}Three.{template.stop}", thinks)
    constraint = object()
    answer = answer_of(session.ask("Question?", constraint=constraint))
    assert (answer.text, answer.reasoning) == ("Three.", "So: 3." if reasons else "")
    assert engine.constraints == ([None, constraint] if reasons else [constraint])
    assert tokenizer.decode(engine.prompts[0]).endswith(
        (marks.start if thinks else marks.answer) if marks else ""
    )


@pytest.mark.parametrize("name", ["opened by the model", "harmony"])
def test_the_end_of_reasoning_is_forced_at_its_limit(name: str):
    template = TEMPLATES[name]
    marks = ChatPrompt(thinking_tokenizer(template.text), thinks=True).reasoning
    assert marks is not None
    # The model would think on; behind the end that is put there, it goes on with what it says next.
    engine, session, tokenizer = templated(
        template, f"{marks.start.strip()}abcdefThree.{template.stop}", True
    )
    session.set_generation(GenerationConfig(think=6, max_new_tokens=5))
    answer = answer_of(session.ask("How many?"))
    assert (answer.reasoning, answer.text, answer.finish_reason) == ("abcdef", "Three", "length")
    prompt = tokenizer.decode(engine.prompts[0])
    assert answer.prompt_tokens == len(engine.prompts[0])
    raw = answer.prompt_tokens + answer.reasoning_tokens + answer.new_tokens
    assert raw == len(tokenizer.encode(f"{prompt}{marks.start.strip()}abcdef{marks.end}Three"))


def test_an_end_that_has_begun_is_completed_and_not_begun_again():
    harmony = TEMPLATES["harmony"]
    said = f"<|channel|>analysis<|message|>abc<|end|><|start|>Three.{harmony.stop}"
    _, session, tokenizer = templated(harmony, said, True)
    session.set_generation(GenerationConfig(think=5))
    events = list(session.ask("How many?"))
    assert answer_of(events).reasoning == "abc"
    assert answer_of(events).text == "Three."
    assert answer_of(events).reasoning_tokens == len(tokenizer.encode(said[: said.index("Three")])) + len(
        tokenizer.encode("assistant<|channel|>final<|message|>")
    )


@pytest.mark.parametrize(
    "pieces", ["{why}Yes.", "{why} }\n\nYes.", "{  why\n}Yes.", "{}Yes.", "Yes.", " Yes."]
)
def test_deltas_join_to_the_reasoning_and_the_answer(pieces: str):
    _, session = thinking(f"{pieces}$")
    *deltas, answer = [
        event for event in session.ask("Q?") if isinstance(event, ReasoningDelta | TextDelta | Answer)
    ]
    assert isinstance(answer, Answer)
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert (reasoning, text) == (answer.reasoning, answer.text)
    kinds = [type(delta) for delta in deltas]
    assert kinds == sorted(kinds, key=lambda kind: kind is TextDelta)
    assert answer.reasoning == ("why" if "why" in pieces else "")
    assert answer.text.removeprefix("}").strip() == "Yes."


def test_the_end_mark_may_end_within_a_token():
    class Pairs(FakeStream):
        def push(self, token: int) -> str:
            return {1: "{wh", 2: "y}", 3: "y} Ye", 4: "s."}[token]

    class Paired(FakePrompt):
        def marked_stream(self) -> FakeStream:
            return Pairs()

    for tokens, answer in (([1, 2], ""), ([1, 3], "Ye")):
        splitter = ReasoningSplitter(Paired(marks=MARKS, thinks=True), MARKS)
        assert "".join(map(splitter.push, tokens)) == "why"
        assert (splitter.phase, "".join(map(chr, splitter.answer))) == ("answer", answer)


def test_reasoning_leaves_room_for_the_answer():
    said = "{" + "r" * 500 + "$"
    _, session = thinking(said, context=100)
    assert answer_of(session.ask("Q?")).reasoning_tokens == pytest.approx(75, abs=10)
    _, session = thinking(said, GenerationConfig(think=None, max_new_tokens=40), context=100)
    answer = answer_of(session.ask("Q?"))
    assert (answer.new_tokens, answer.finish_reason) == (40, "length")


def test_an_end_within_the_reasoning_leaves_no_answer_and_no_trace():
    engine, session = thinking("{hm$")
    answer = answer_of(session.ask("Q?"))
    assert (answer.reasoning, answer.text, answer.finish_reason) == ("hm", "", "stop")
    engine.answer = "Yes.$"
    answer_of(session.ask("R?"))
    assert said_in(session) == "<[one]Q?=|R?=Yes."


def test_blanks_before_the_answer_do_not_count():
    _, session = thinking("{hm}\n\n  Yes, indeed.$", GenerationConfig(think=None, max_new_tokens=4))
    answer = answer_of(session.ask("Q?"))
    assert (answer.text, answer.new_tokens, answer.finish_reason) == ("Yes,", 4, "length")
    for said in ("{hm}" + "\n" * 200, "\n" * 200):
        engine, session = thinking(said, GenerationConfig(think=None, max_new_tokens=4))
        answer = answer_of(session.ask("Q?"))
        assert (answer.new_tokens, answer.finish_reason) == (4, "length")
        assert session.transcript[: engine.length] == engine.cached


@pytest.mark.parametrize("looks", range(4, 14))
def test_an_interrupt_keeps_the_answer_alone(looks: int):
    engine, session = thinking("{hmm}Yes.$")
    left = iter(range(looks))
    answer = answer_of(session.ask("Q?", lambda: next(left, None) is None))
    kept = answer.text if answer.finish_reason == "interrupted" else "Yes."
    assert "Yes.".startswith(kept)
    assert session.transcript[: engine.length] == engine.cached
    engine.answer = "Sure.$"
    answer_of(session.ask("R?"))
    assert said_in(session) == f"<[one]Q?={kept}|R?=Sure."
    assert session.transcript[: engine.length] == engine.cached
    assert engine.resets == 0


def test_turns_with_reasoning_are_taken_back_and_recorded_without_it():
    engine, session = thinking("{hm}Yes.$")
    session.keep_no_rewind_points()  # has no effect where the reasoning has to be taken back
    answer_of(session.ask("A?"))
    answer_of(session.ask("B?"))
    archive = make_archive(session.conversation, "tiny", session.generation, LrqkConfig(), "t")
    assert [entry.tokens for entry in archive.entries[1:]] == [tuple(map(ord, "Yes."))] * 2
    assert archive.restore(session.conversation.prompt, "t").tokens == session.transcript
    assert session.undo().question == "B?"
    session.set_system("S")
    answer_of(session.ask("C?"))
    assert said_in(session) == "S<[one]A?=Yes.|C?=Yes."
    assert session.transcript[: engine.length] == engine.cached


def test_reasoning_can_be_switched_within_a_conversation():
    engine, session = thinking("{hm}Yes.$")
    answer_of(session.ask("A?"))
    session.set_generation(GenerationConfig())
    assert answer_of(session.ask("B?")).text == "{hm}Yes."
    session.set_generation(GenerationConfig(think=4))
    assert answer_of(session.ask("C?")).text == "Yes."
    assert said_in(session) == "<[one]A?=Yes.|B?={hm}Yes.|C?=Yes."
    assert engine.resets == 0
    plain = new_session(FakeEngine())
    with pytest.raises(UsageError, match="does not reason"):
        plain.set_generation(THINK)
    assert plain.generation == GenerationConfig()


def test_a_model_that_always_reasons_is_named_once():
    always = TEMPLATES["always"]
    _, session, _ = templated(always, f"hm</think>Three.{always.stop}", thinks=False)
    events = [*session.ask("A?"), *session.ask("B?")]
    assert (
        len([event for event in events if isinstance(event, Remark) and "in any case" in event.message]) == 1
    )
    _, session, _ = templated(always, f"hm</think>Three.{always.stop}", thinks=True)
    assert not [event for event in session.ask("A?") if isinstance(event, Remark)]


def test_each_part_of_a_seeded_answer_draws_on_its_own():
    seeds = list[int | None]()

    class Drawing(FakeEngine):
        def generate(self, generation, stop_ids, *demands):
            seeds.append(generation.seed)
            yield from super().generate(generation, stop_ids, *demands)

    session = new_session(Drawing("{hm}Yes.$"), (), GenerationConfig(seed=7, think=None), prompt=PROMPT)
    answer_of(session.ask("Q?"))
    assert seeds[0] == 7
    assert len({*seeds}) == len(seeds) == 3


def test_a_real_engine_goes_on_as_if_the_reasoning_had_never_been():
    tokenizer = thinking_tokenizer(TEMPLATES["opened by the template"].text)
    model = tiny_model("llama", vocab_size=len(tokenizer))
    spec = spec_from_config(model.config, "tiny")
    config = LrqkConfig(rank=8, index_bits=8, hot=512, top_k=64, recent=16)

    with Engine(model, spec, config, 512) as engine:
        session = Session(
            engine,
            ChatPrompt(tokenizer, thinks=True),
            [FakeDocument("a.pdf", ["The plant employs 412 people. "] * 3)],
            GenerationConfig(think=6, max_new_tokens=5),
            stop_ids=(),
            trained_context=512,
            max_context=512,
            new_stream=lambda goes_on: Detokenizer(tokenizer, goes_on=goes_on),
        )
        for _ in range(2):
            answer = answer_of(session.ask("How many?"))
            assert answer.reasoning_tokens > 6
        assert answer.timing.prefill_tokens < len(session.transcript) / 2
        assert tokenizer.convert_tokens_to_ids("</think>") not in session.transcript
        list(session.read())
        assert engine.tokens == tuple(session.transcript)
        logits = engine.next_logits().clone()
    with Engine(model, spec, config, 512) as engine:
        list(engine.prefill(session.transcript))
        torch.testing.assert_close(engine.next_logits(), logits, rtol=1e-4, atol=1e-4)


def test_a_full_context_ends_the_reasoning_without_an_answer():
    engine, session = thinking("{hm}Yes.$", context=12)
    answer = answer_of(session.ask("Q?"))
    assert (answer.text, answer.finish_reason) == ("", "context")
    assert session.transcript[: engine.length] == engine.cached
