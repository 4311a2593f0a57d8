"""The options of ``lrqk chat`` alone: documents, questions, answers and output."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lrqk_cli.cli.options import document_option, option, output_option
from lrqk_cli.cli.values import parse_bytes, parse_integer, parse_number, parse_think, parse_tokens

_answer_option = partial(option, panel="Answer")

Files = Annotated[
    list[str],
    typer.Argument(
        help="Documents, folders and URLs to read; - for standard input.",
        metavar="FILE",
        show_default=False,
    ),
]
File = Annotated[
    list[str],
    document_option("--file", "The same as FILE, and read before those. Repeat it for more.", "PATH"),
]
FetchSize = Annotated[
    int,
    document_option(
        "--fetch-size",
        "Size that a document behind a URL may have, such as 1GiB; it is fetched within --read-timeout. "
        "(default: 256MiB)",
        "SIZE",
        parse_bytes,
        show_default=False,
    ),
]
Pages = Annotated[str | None, document_option("--pages", "Pages to read, such as 3-20,25.", "PAGES")]
Password = Annotated[str | None, document_option("--password", "Password of encrypted documents.", "TEXT")]
Prompt = Annotated[
    list[str],
    _answer_option(
        "--prompt",
        "Ask this, print the answer and exit; repeat it for follow-up questions, - for standard input. "
        "Without it, a piped text is the question, and on a terminal a chat starts.",
        "TEXT",
    ),
]
PromptsFile = Annotated[
    Path | None,
    _answer_option(
        "--prompts-file",
        "Ask each question of this file separately: one a line, as text or as a JSON object with "
        "prompt and id; - for standard input.",
        "PATH",
    ),
]
AnswersFile = Annotated[
    Path | None,
    _answer_option(
        "--answers-file",
        "Append the answers to this file as JSON Lines, and skip questions that it answers already. "
        "(default: standard output)",
        "PATH",
    ),
]
System = Annotated[
    str | None, _answer_option("--system", "System prompt: instructions to the model.", "TEXT")
]
MaxNewTokens = Annotated[
    int | None,
    _answer_option(
        "--max-new-tokens",
        "Maximum length of an answer in tokens, without reasoning. (default: what is left of the context)",
        "TOKENS",
        parse_tokens,
    ),
]
Think = Annotated[
    int | None,
    _answer_option(
        "--think",
        "Let the model reason before it answers: on, off, or at most so many tokens. on leaves "
        "--max-new-tokens of the context, or a quarter of what is free, for the answer. (default: off)",
        "on|off|TOKENS",
        parse_think,
        show_default=False,
    ),
]
Temperature = Annotated[
    float,
    _answer_option(
        "--temperature", "Sampling temperature; 0 always takes the most likely token.", "T", parse_number
    ),
]
TopP = Annotated[
    float,
    _answer_option(
        "--top-p",
        "Nucleus sampling: sample from the most likely tokens that together have this probability.",
        "P",
        parse_number,
    ),
]
SampleTopK = Annotated[
    int,
    _answer_option(
        "--sample-top-k", "Sample from the N most likely tokens; 0 means all.", "N", parse_integer
    ),
]
RepetitionPenalty = Annotated[
    float, _answer_option("--repetition-penalty", "Values above 1 discourage repetition.", "X", parse_number)
]
Seed = Annotated[
    int | None, _answer_option("--seed", "Random seed, for repeatable sampling.", "N", parse_integer)
]
Json = Annotated[
    bool, output_option("--json", "Print JSON: one object, or JSON Lines for several questions.")
]
Sources = Annotated[bool, output_option("--sources", "List the pages that each answer is based on.")]
Bell = Annotated[
    bool,
    output_option(
        "--bell/--no-bell",
        "Ring the terminal's bell after reading and answering for more than half a minute.",
    ),
]
NoHistory = Annotated[
    bool, output_option("--no-history", "Record neither the chat nor its questions on the disk.")
]
SessionName = Annotated[
    str | None,
    output_option(
        "--session", "Record the conversation under this name, and go on with it if it is there.", "NAME"
    ),
]
Continue = Annotated[bool, output_option("--continue", "Go on with the conversation that was held last.")]
