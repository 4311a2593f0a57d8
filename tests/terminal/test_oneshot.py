from __future__ import annotations

import contextlib
import os
import signal
from io import StringIO

import pytest
from fake_chat import MARKS, FakeEngine, FakePrompt, new_session
from rich.console import Console

from lrqk_cli.config import GenerationConfig
from lrqk_cli.terminal.oneshot import answer_once
from lrqk_cli.terminal.view import View


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class SwallowingEngine(FakeEngine):
    """Meets Ctrl-C while its first segment is computed, and loses the exception."""

    def prefill(self, tokens, *, finishes=True, on_layer=None):
        with contextlib.suppress(KeyboardInterrupt):
            interrupt()
        yield from super().prefill(tokens, finishes=finishes)


class InterruptedEngine(FakeEngine):
    """Meets Ctrl-C after three tokens of its answer."""

    def generate(self, generation, stop_ids, *demands):
        for number, step in enumerate(super().generate(generation, stop_ids, *demands)):
            if number == 3:
                interrupt()
            yield step


@pytest.fixture
def view() -> View:
    return View(Console(file=StringIO(), width=80))


def test_ctrl_c_that_was_swallowed_while_reading_ends_the_run(new_session, view):
    engine = SwallowingEngine()
    with pytest.raises(KeyboardInterrupt):
        answer_once(new_session(engine), "What is it, then?", view, streams=False)
    assert engine.length == engine.segment


def test_ctrl_c_during_the_answer_keeps_what_is_there(new_session, view, capsys):
    answer = answer_once(new_session(InterruptedEngine("Quite so.$")), "Is it?", view, streams=True)
    assert (answer.text, answer.finish_reason) == ("Quit", "interrupted")
    assert capsys.readouterr().out == "Quit\n"


def test_ctrl_c_twice_during_the_answer_ends_the_run(new_session, view):
    class Impatient(InterruptedEngine):
        def generate(self, generation, stop_ids, *demands):
            for step in super().generate(generation, stop_ids, *demands):
                yield step
                interrupt()
                interrupt()

    with pytest.raises(KeyboardInterrupt):
        answer_once(new_session(Impatient("Quite so.$")), "Is it?", view, streams=True)


def test_ctrl_c_during_the_reasoning_ends_the_answer_before_it_begins(view, capsys):
    engine, prompt = InterruptedEngine("{hmmmmm}Yes.$"), FakePrompt(marks=MARKS, thinks=True)
    session = new_session(engine, (), GenerationConfig(think=None), prompt=prompt)
    answer = answer_once(session, "Is it?", view, streams=True)
    assert (answer.reasoning, answer.text, answer.finish_reason) == ("hmmm", "", "interrupted")
    assert capsys.readouterr().out == ""
    assert view.console.file.getvalue().endswith("Reasoning:\n│ hmmm\n\n")
