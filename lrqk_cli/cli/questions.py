"""Questions that ``lrqk chat`` asks without a chat: from --prompt, a pipe or a file, and their answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from lrqk_cli.errors import ContextLengthError, UsageError

if TYPE_CHECKING:
    from lrqk_cli.chat.batch import AnswersFile, BatchQuestion
    from lrqk_cli.chat.events import Answer
    from lrqk_cli.chat.opening import OpenSession
    from lrqk_cli.chat.report import ChatReport
    from lrqk_cli.terminal.view import View

_STDIN = Path("-")


class QuestionSet(Protocol):
    """What is to be asked.

    Attributes:
        is_answered: nothing is left to ask.
    """

    is_answered: bool

    def to_reserve(self) -> list[str]:
        """Questions that stand in the context together, for which there must be room."""

    def answer(self, opened: OpenSession, view: View) -> None:
        """Ask, and print the answers.

        Raises:
            ContextLengthError: there was no room for a question.
            KeyboardInterrupt: Ctrl-C.
        """


def read_asked(
    context: typer.Context,
    prompts: Sequence[str],
    prompts_file: Path | None,
    answers_file: Path | None,
    files: Sequence[Path],
    as_json: bool,
) -> QuestionSet | None:
    """Return what is to be asked; None for a chat on the terminal.

    Raises:
        UsageError: the options contradict each other, there is nothing to ask, or it would have to come from
            where a document comes from.
    """
    if prompts_file is not None:
        if prompts:
            raise UsageError("--prompt and --prompts-file were both given.", "Choose one of them.")
        return _from_file(prompts_file, answers_file)
    if answers_file is not None:
        raise UsageError("--answers-file needs --prompts-file.", "Print a single answer to a file with >.")
    prompts = _whole_prompts(context, prompts)
    if not prompts and not sys.stdin.isatty():
        if _STDIN in files:
            raise UsageError(
                "The document and the question cannot both come from standard input.",
                "Give the question with --prompt.",
            )
        prompts = [sys.stdin.read()]
    if not prompts:
        if as_json or _STDIN in files or not sys.stdout.isatty():
            reason = "--json prints answers" if as_json else "A chat needs a terminal on both sides"
            raise UsageError(f"{reason}, and there is no question.", "Give the question with --prompt.")
        return None
    if not all(prompt.strip() for prompt in prompts):
        raise UsageError("The question is empty.", "Give it with --prompt, or pipe it in.")
    return FollowUpQuestions([prompt.strip() for prompt in prompts], as_json)


def _whole_prompts(context: typer.Context, prompts: Sequence[str]) -> list[str]:
    """Undo that click takes a variable apart at blanks."""
    source = context.get_parameter_source("prompt")
    is_variable = source is not None and source.name == "ENVIRONMENT"
    return [os.environ["LRQK_PROMPT"]] if is_variable else list(prompts)


def _from_file(prompts_file: Path, answers_file: Path | None) -> QuestionSet:
    from lrqk_cli.chat.batch import AnswersFile, read_questions, unanswered

    questions = read_questions(prompts_file)
    answers = AnswersFile(answers_file) if answers_file is not None else None
    return IndependentQuestions(unanswered(questions, answers), answers, len(questions))


class FollowUpQuestions:
    """Questions of one conversation; each sees those before it and their answers.

    The answers go to stdout as they come; with ``as_json`` as one object, or as one a line if there are
    several.
    """

    def __init__(self, prompts: Sequence[str], as_json: bool) -> None:
        self.is_answered = False
        self._prompts = prompts
        self._as_json = as_json

    def to_reserve(self) -> list[str]:
        """See ``QuestionSet``."""
        return list(self._prompts)

    def answer(self, opened: OpenSession, view: View) -> None:
        """See ``QuestionSet``."""
        from lrqk_cli.chat.report import to_json, to_json_line
        from lrqk_cli.terminal.oneshot import answer_once
        from lrqk_cli.terminal.sources_view import sources_view

        opened.session.forgo_marks()
        for number, prompt in enumerate(self._prompts):
            if number and not self._as_json:
                typer.echo()
            answer = answer_once(opened.session, prompt, view, streams=not self._as_json)
            if self._as_json:
                write = to_json if len(self._prompts) == 1 else to_json_line
                typer.echo(write(_report(opened, prompt, answer)))
            view.statistics(answer)
            if answer.sources is not None and not self._as_json and not view.quiet:
                view.console.print(sources_view(answer.sources, view.console))
            if answer.finish_reason == "interrupted":
                raise KeyboardInterrupt


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

    def answer(self, opened: OpenSession, view: View) -> None:
        """See ``QuestionSet``; a question that does not fit gets a line that says so, and the rest follow."""
        from lrqk_cli.terminal.oneshot import answer_once

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
        from lrqk_cli.chat.report import to_json_line

        line = to_json_line(fields)
        if self._answers is None:
            typer.echo(line)
        else:
            self._answers.add(line)


def _report(opened: OpenSession, prompt: str, answer: Answer) -> ChatReport:
    from lrqk_cli.chat.report import build_report

    return build_report(
        prompt,
        answer,
        model=opened.model,
        settings=opened.settings,
        plan=opened.plan,
        documents=opened.session.documents,
        load_s=opened.load_s,
    )
