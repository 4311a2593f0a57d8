"""The options of ``lrqk chat`` alone: documents, questions, answers and output."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lrqk_cli.cli.options import document_option, model_option, option, output_option
from lrqk_cli.cli.values import parse_integer, parse_number, parse_tokens

_answer_option = partial(option, panel="Answer")

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Documents and folders to read; - for standard input.",
        metavar="FILE",
        show_default=False,
    ),
]
File = Annotated[
    list[Path],
    document_option(
        "--file", help="The same as FILE, and read before those. Repeat it for more.", metavar="PATH"
    ),
]
Pages = Annotated[
    str | None, document_option("--pages", help="Pages to read, such as 3-20,25.", metavar="PAGES")
]
Password = Annotated[
    str | None,
    document_option("--password", help="Password of encrypted documents.", metavar="TEXT"),
]
OffloadWeights = Annotated[
    bool,
    model_option(
        "--offload-weights",
        help="Keep weights that do not fit on the GPU in CPU memory, which is slow.",
        metavar="",
    ),
]
Prompt = Annotated[
    list[str],
    _answer_option(
        "--prompt",
        help="Ask this, print the answer and exit; repeat it for follow-up questions. Without it, a piped "
        "text is the question, and on a terminal a chat starts.",
        metavar="TEXT",
    ),
]
PromptsFile = Annotated[
    Path | None,
    _answer_option(
        "--prompts-file",
        help="Ask each question of this file separately: one a line, as text or as a JSON object with "
        "prompt and id.",
        metavar="PATH",
    ),
]
AnswersFile = Annotated[
    Path | None,
    _answer_option(
        "--answers-file",
        help="Append the answers to this file as JSON Lines, and skip questions that it answers already. "
        "(default: standard output)",
        metavar="PATH",
    ),
]
System = Annotated[
    str | None,
    _answer_option("--system", help="System prompt: instructions to the model.", metavar="TEXT"),
]
MaxNewTokens = Annotated[
    int | None,
    _answer_option(
        "--max-new-tokens",
        help="Maximum length of an answer in tokens. (default: what is left of the context)",
        parse=parse_tokens,
        metavar="TOKENS",
    ),
]
Temperature = Annotated[
    float,
    _answer_option(
        "--temperature",
        help="Sampling temperature; 0 always takes the most likely token.",
        parse=parse_number,
        metavar="T",
    ),
]
TopP = Annotated[
    float,
    _answer_option(
        "--top-p",
        help="Nucleus sampling: sample from the most likely tokens that together have this probability.",
        parse=parse_number,
        metavar="P",
    ),
]
SampleTopK = Annotated[
    int,
    _answer_option(
        "--sample-top-k",
        help="Sample from the N most likely tokens; 0 means all.",
        parse=parse_integer,
        metavar="N",
    ),
]
RepetitionPenalty = Annotated[
    float,
    _answer_option(
        "--repetition-penalty", help="Values above 1 discourage repetition.", parse=parse_number, metavar="X"
    ),
]
Seed = Annotated[
    int | None,
    _answer_option("--seed", help="Random seed, for repeatable sampling.", parse=parse_integer, metavar="N"),
]
Json = Annotated[
    bool,
    output_option("--json", help="Print JSON: one object, or JSON Lines for several questions.", metavar=""),
]
Sources = Annotated[
    bool,
    output_option("--sources", help="List the pages that each answer is based on.", metavar=""),
]
Bell = Annotated[
    bool,
    output_option(
        "--bell/--no-bell",
        help="Ring the terminal's bell after reading and answering for more than half a minute.",
        metavar="",
    ),
]
NoHistory = Annotated[
    bool,
    output_option("--no-history", help="Do not save the questions of a chat in a file.", metavar=""),
]
