"""Questions without a chat: each is asked once, and its answer printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Protocol

import typer

from lrqk_cli.chat.batch import AnswersFile, BatchQuestion
from lrqk_cli.chat.chat import Chat
from lrqk_cli.chat.chat_model import OpenChat
from lrqk_cli.chat.events import Answer, Message, ReasoningDelta, TextDelta
from lrqk_cli.chat.printable import to_json
from lrqk_cli.chat.report import ChatReport, build_report
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import ContextLengthError, LrqkError
from lrqk_cli.terminal.interrupts import Interrupts
from lrqk_cli.terminal.sources_view import sources_view
from lrqk_cli.terminal.streaming import DeltaStream, NoStream, PlainReasoning, PlainStream
from lrqk_cli.terminal.view import View


class QuestionSet(Protocol):
    """What is to be asked.

    Attributes:
        is_answered: nothing is left to ask.
    """

    is_answered: bool

    def to_reserve(self) -> list[str]:
        """Questions that stand in the context together, for which there must be room."""

    def answer(self, opened: OpenChat, view: View, record: Callable[[], None]) -> None:
        """Ask, and print the answers.

        Args:
            record: called after each question.

        Raises:
            ContextLengthError: there was no room for a question.
            KeyboardInterrupt: Ctrl-C.
        """


class FollowUpQuestions:
    """Questions of one conversation; each sees those before it and their answers.

    The answers go to stdout as they come, and reasoning to stderr; with ``as_json`` both as one object, or as
    one a line if there are several.
    """

    def __init__(self, prompts: Sequence[str], as_json: bool) -> None:
        self.is_answered = False
        self._prompts = prompts
        self._as_json = as_json

    def to_reserve(self) -> list[str]:
        """See ``QuestionSet``."""
        return list(self._prompts)

    def answer(self, opened: OpenChat, view: View, record: Callable[[], None]) -> None:
        """See ``QuestionSet``."""
        opened.session.keep_no_rewind_points()
        unrecorded: LrqkError | None = None
        for number, prompt in enumerate(self._prompts):
            if number and not self._as_json:
                typer.echo()
            answer = answer_once(opened.session, prompt, view, streams=not self._as_json)
            if self._as_json:
                indent = 2 if len(self._prompts) == 1 else None
                typer.echo(to_json(_report(opened, prompt, answer), indent))
            view.statistics(answer)
            if answer.sources is not None and not self._as_json and not view.quiet:
                view.console.print(sources_view(answer.sources, view.console))
            # An answer that cannot be recorded has been printed all the same; the next one records both.
            try:
                record()
                unrecorded = None
            except LrqkError as error:
                unrecorded = error
            if answer.finish_reason == "interrupted":
                raise KeyboardInterrupt
        if unrecorded is not None:
            raise unrecorded


class IndependentQuestions:
    """Questions of a file, each asked after the documents alone; answers are JSON lines.

    Args:
        questions: those without an answer.
        answers: where answers go; None for stdout.
        total: how many questions the file has.
    """

    def __init__(self, questions: Sequence[BatchQuestion], answers: AnswersFile | None, total: int) -> None:
        self.is_answered = not questions
        self._questions = questions
        self._answers = answers
        self._total = total

    def to_reserve(self) -> list[str]:
        """See ``QuestionSet``."""
        return sorted((question.prompt for question in self._questions), key=len)[-1:]

    def answer(self, opened: OpenChat, view: View, _: Callable[[], None]) -> None:
        """See ``QuestionSet``; a question that does not fit gets a line that says so, and the rest follow."""
        done = self._total - len(self._questions)
        refusal: ContextLengthError | None = None
        for number, question in enumerate(self._questions, done + 1):
            view.note(f"Question {number:,} of {self._total:,}: {question.id}")
            try:
                answer = answer_once(opened.session, question.prompt, view, streams=False)
            except ContextLengthError as error:
                refusal = refusal or error
                self._write({**question.fields, "error": error.message})
                continue
            view.statistics(answer)
            if answer.finish_reason == "interrupted":
                raise KeyboardInterrupt
            report = _report(opened, question.fields["prompt"], answer)
            self._write({**question.fields, **report})
            opened.session.undo()
        if refusal is not None:
            raise refusal

    def _write(self, fields: dict[str, object]) -> None:
        line = to_json(fields)
        if self._answers is None:
            typer.echo(line)
        else:
            self._answers.add(line)


def _report(opened: OpenChat, prompt: str, answer: Answer) -> ChatReport:
    return build_report(
        prompt,
        answer,
        model=opened.model,
        config=opened.session.config,
        plan=opened.plan,
        documents=opened.session.documents,
        load_s=opened.load_s,
    )


def answer_once(session: Chat, question: str, view: View, *, streams: bool) -> Answer:
    """Ask one question, with progress on stderr.

    Args:
        streams: write the answer to stdout while it is generated, and its reasoning to stderr.

    Returns:
        The answer; ``interrupted`` if Ctrl-C stopped it.

    Raises:
        ContextLengthError: the documents and the question do not fit.
        KeyboardInterrupt: Ctrl-C before the answer began, or twice.
    """
    shown = DeltaStream(
        NoStream if view.quiet or not streams else partial(PlainReasoning, view.console),
        PlainStream if streams else NoStream,
    )

    def leave() -> None:
        # Before the answer begins, Ctrl-C leaves at once; after that it only sets the flag. If a library's
        # callback swallows the exception, the flag stops the session after the segment.
        if not shown.has_begun:
            raise KeyboardInterrupt

    began = time.monotonic()
    interrupts = Interrupts(leave)
    with interrupts, ExitStack() as bar, shown:
        update = bar.enter_context(view.prefilling("Reading"))
        session.watch_reading(update)
        for event in session.ask(question, interrupts):
            if isinstance(event, PrefillProgress):
                update(event)
            elif isinstance(event, Message):
                view.tell(event)
            elif isinstance(event, ReasoningDelta | TextDelta):
                bar.close()
                shown.add(event)
            elif not shown.has_begun and interrupts():
                raise KeyboardInterrupt
            else:
                if not interrupts():
                    view.ring(time.monotonic() - began)
                return event
    raise AssertionError("A session ends with an answer.")
