"""Questions that ``lrqk chat`` asks without a chat: from --prompt, a pipe or a file."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lrqk_cli.cli import options
from lrqk_cli.config import GenerationConfig
from lrqk_cli.documents.locations import STDIN, Location
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.terminal.oneshot import QuestionSet

_DEFAULT = GenerationConfig()
# A question that is read from standard input.
_FROM_STDIN = "-"


def read_asked(
    context: typer.Context,
    prompts: Sequence[str],
    prompts_file: Path | None,
    answers_file: Path | None,
    files: Sequence[Location],
    as_json: bool,
) -> QuestionSet | None:
    """Return the questions to ask; None for a chat on the terminal.

    Raises:
        UsageError: the options contradict each other, there is no question, or both a document and the
            question would come from standard input.
    """
    if prompts_file is not None:
        if prompts:
            raise UsageError("--prompt and --prompts-file were both given.", "Choose one of them.")
        if prompts_file == STDIN:
            _refuse_shared(files, "Give the questions in a file.")
        return _from_file(prompts_file, answers_file)
    if options.on_command_line(context, {"answers_file"}):
        raise UsageError("--answers-file needs --prompts-file.", "Print a single answer to a file with >.")
    prompts = _whole_prompts(context, prompts)
    if not prompts and not sys.stdin.isatty():
        prompts = [_FROM_STDIN]
    if _FROM_STDIN in prompts:
        _refuse_shared(files, "Give the question with --prompt.")
        if prompts.count(_FROM_STDIN) > 1:
            raise UsageError("Only one question can come from standard input.", "Write the others out.")
        piped = _piped()
        prompts = [piped if prompt == _FROM_STDIN else prompt for prompt in prompts]
    if not prompts:
        if as_json or STDIN in files or not sys.stdout.isatty():
            reason = "--json prints answers" if as_json else "A chat needs a terminal on both sides"
            raise UsageError(f"{reason}, and there is no question.", "Give the question with --prompt.")
        return None
    if not all(prompt.strip() for prompt in prompts):
        raise UsageError("The question is empty.", "Give it with --prompt, or pipe it in.")
    from lrqk_cli.terminal.oneshot import FollowUpQuestions

    return FollowUpQuestions([prompt.strip() for prompt in prompts], as_json)


def refuse_unsampled(context: typer.Context, generation: GenerationConfig) -> None:
    """Refuse limits of sampling where the likeliest token is taken. (In a chat /set may change that.)

    Raises:
        UsageError: there is one on the command line.
    """
    limits = {
        name for name in ("sample_top_k", "top_p") if getattr(generation, name) != getattr(_DEFAULT, name)
    }
    if generation.temperature == 0:
        options.refuse_without(context, limits, "a --temperature above 0")


def _refuse_shared(files: Sequence[Location], hint: str) -> None:
    if STDIN in files:
        raise UsageError("The document and the question cannot both come from standard input.", hint)


def _piped() -> str:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin.read()


def _whole_prompts(context: typer.Context, prompts: Sequence[str]) -> list[str]:
    """Return the prompts; a variable is one prompt, although click splits it at blanks."""
    source = context.get_parameter_source("prompt")
    is_variable = source is not None and source.name == "ENVIRONMENT"
    return [os.environ["LRQK_PROMPT"]] if is_variable else list(prompts)


def _from_file(prompts_file: Path, answers_file: Path | None) -> QuestionSet:
    from lrqk_cli.chat.batch import AnswersFile, read_questions, unanswered
    from lrqk_cli.terminal.oneshot import IndependentQuestions

    questions = read_questions(prompts_file)
    answers = AnswersFile(answers_file) if answers_file is not None else None
    return IndependentQuestions(unanswered(questions, answers), answers, len(questions))
